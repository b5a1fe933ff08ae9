//! See `master::fuzzing::quantity`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| master::fuzzing::quantity(input));
