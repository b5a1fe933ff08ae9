//! Services, from what users write to what is stored.
