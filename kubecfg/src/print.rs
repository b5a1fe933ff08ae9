//! Lines on standard output.

use std::fmt::Display;
use std::io::Write;

use anyhow::{Context, Result};

/// Writes a line. What `println!` would panic of is an error here: a full disk, or a reader that
/// has seen enough.
pub(crate) fn line(text: impl Display) -> Result<()> {
    writeln!(std::io::stdout(), "{text}").context("cannot write to standard output")
}
