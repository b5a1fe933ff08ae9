//! See `kubelet::dns::fuzzing::answer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| kubelet::dns::fuzzing::answer(input));
