//! See `master::fuzzing::json_body`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| master::fuzzing::json_body(input));
