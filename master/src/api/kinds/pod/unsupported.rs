//! What this version does not do: refused, never ignored.
