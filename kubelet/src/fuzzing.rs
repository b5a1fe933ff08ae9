//! Runs the fuzzer's targets over a bounded number of cases, without the fuzzer.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a target over a corpus and over mutations of it, of which `pieces` mean something to it. `KUTTER_SEED` repeats a failure,
/// `KUTTER_FUZZ_CASES` goes on for longer.
pub(crate) fn run(target: fn(&[u8]), pieces: &[&[u8]], corpus: &[Vec<u8>]) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("KUTTER_SEED").unwrap_or(1);
    let cases = number("KUTTER_FUZZ_CASES").unwrap_or(20_000);
    let mut chance = fastrand::Rng::with_seed(seed);
    let attempt = |input: &[u8]| {
        let ended = catch_unwind(AssertUnwindSafe(|| target(input)));
        assert!(ended.is_ok(), "KUTTER_SEED={seed}, of the input b\"{}\"", input.escape_ascii());
    };
    corpus.iter().for_each(|input| attempt(input));
    for _ in 0..cases {
        let mut input = corpus[chance.usize(..corpus.len())].clone();
        for _ in 0..=chance.usize(..4) {
            let at = chance.usize(..=input.len());
            let end = at + chance.usize(..=(input.len() - at).min(16));
            match chance.usize(..6) {
                0 => drop(input.drain(at..end)),
                1 => drop(input.splice(at..end, pieces[chance.usize(..pieces.len())].to_vec())),
                2 => drop(input.splice(at..at, pieces[chance.usize(..pieces.len())].to_vec())),
                3 => input.truncate(at),
                4 => {
                    let again = input[at..end].repeat(chance.usize(1..64));
                    input.splice(at..at, again);
                }
                _ => {
                    if let Some(byte) = input.get_mut(at) {
                        *byte ^= 1 << chance.u8(..8);
                    }
                }
            }
        }
        input.truncate(4096);
        attempt(&input);
    }
}
