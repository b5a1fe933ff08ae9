//! See `master::fuzzing::selector`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| master::fuzzing::selector(input));
