//! See `kubelet::dns::fuzzing::question`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kubelet::dns::fuzzing::question(input));
