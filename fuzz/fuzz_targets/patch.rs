//! See `master::fuzzing::patch`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| master::fuzzing::patch(input));
