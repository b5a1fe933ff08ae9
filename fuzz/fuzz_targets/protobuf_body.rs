//! See `master::fuzzing::protobuf_body`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| master::fuzzing::protobuf_body(input));
