//! The REST API: generic machinery, and a file per kind.

pub mod field_error;
pub mod kinds;
