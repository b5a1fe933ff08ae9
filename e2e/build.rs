//! Builds `testserver` as a static program, for `src/image.rs` to put into an image.
//!
//! It is built by a cargo of its own: linking statically is a flag of a whole build, not of a binary.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=testserver");
    let variable = |name: &str| env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let (out, target) = (PathBuf::from(variable("OUT_DIR")), variable("TARGET"));
    let folder = out.join("testserver-target");
    let status = Command::new(variable("CARGO"))
        .args(["build", "--quiet", "--release", "--package", "testserver", "--target", &target])
        .arg("--target-dir")
        .arg(&folder)
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        // These carry what the outer build wants of itself: clippy as compiler, for instance.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("CARGO_BUILD_TARGET_DIR")
        .status()
        .expect("cargo runs");
    assert!(status.success(), "building testserver failed");
    let built = folder.join(&target).join("release/testserver");
    std::fs::copy(&built, out.join("testserver")).expect("the program was built");
}
