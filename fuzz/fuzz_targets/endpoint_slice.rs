//! See `kubelet::proxy::fuzzing::endpoint_slice` and `kubelet::dns::fuzzing::endpoint_slice`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    kubelet::proxy::fuzzing::endpoint_slice(input);
    kubelet::dns::fuzzing::endpoint_slice(input);
});
