//! Pods, from what users write to what is stored and shown.
