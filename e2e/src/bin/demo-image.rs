//! `demo-image`: writes an OCI archive with the image that the example runs.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

/// Writes an OCI archive with a small HTTP server, for `kubelet image import`.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The file to write.
    archive: PathBuf,
    /// The names of the image.
    #[arg(required = true)]
    names: Vec<String>,
}

fn main() -> Result<()> {
    let Arguments { archive, names } = Arguments::parse();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    e2e::image::write_archive(&archive, &names)
}
