//! See `master::fuzzing::yaml_body`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| master::fuzzing::yaml_body(input));
