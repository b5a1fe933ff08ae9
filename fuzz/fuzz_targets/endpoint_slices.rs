//! See `master::fuzzing::endpoint_slices`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| master::fuzzing::endpoint_slices(input));
