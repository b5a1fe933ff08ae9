//! Server-side apply, and who owns which fields (KEP-555).
//!
//! Pure: [`field_set`] is the sets, [`merge`] what they have to do with objects, [`managed_fields`]
//! the record that an object carries of them and how each write changes it, [`versions`] how fields
//! are called from one version of an object to the next. The writes call in from `api/write`, requests
//! from `api/rest/apply`.

pub(crate) mod field_set;
pub(crate) mod managed_fields;
pub(crate) mod merge;
mod versions;

#[cfg(test)]
mod tests;
