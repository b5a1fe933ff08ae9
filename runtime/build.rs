//! How the shim is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // At a fixed address there is nothing to relocate when it starts. Otherwise every shim would
    // spend milliseconds of each pod's start, and a private copy of all that holds a pointer, on
    // some ten thousand relocations of code that it will never run.
    println!("cargo::rustc-link-arg-bin=shim=-no-pie");
}
