//! The shim: a small process per sandbox that holds its namespaces and its containers.

use std::process::ExitCode;

fn main() -> ExitCode {
    runtime::shim::main()
}
