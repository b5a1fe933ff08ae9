//! Under construction: nothing is public yet.
