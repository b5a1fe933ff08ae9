//! A fuzzer for tests: mutations of a corpus, from a seed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crate::dice::Dice;

/// Larger inputs take longer and find no more.
const MAX_INPUT: usize = 16 << 10;

/// Far beyond what any input takes, also in a debug build on a machine that has much else to do;
/// far below what work that grows with the square of its input, or faster, would.
const MAX_TIME: Duration = Duration::from_secs(10);

/// Pieces worth a try anywhere.
const PIECES: [&[u8]; 28] = [
    b"null",
    b"true",
    b"-1",
    b"1e400",
    b"9223372036854775808",
    b"0x7f",
    b"\xff\xfe",
    b"\0",
    b"{}",
    b"[]",
    b"[[[[[[[[",
    b"{\"a\":{\"a\":",
    b"&a ",
    b"*a",
    b"<<: ",
    b"? ",
    b"!!binary ",
    b"---\n",
    b"\n  - ",
    b"|\n",
    b"\"\\ud800\"",
    b"\\u0000",
    b"%2F",
    b"..",
    b"$patch",
    b"Ki",
    b"9999999999999",
    b" in (a,b)",
];

/// What means something in one of the languages that are read.
const SIGNS: &[u8] = b"{}[]:,\"'\\ \n\t-+.=!()&*#|>%@`~$09aZ/?";

/// Runs a target over a corpus and over so many mutations of it. `KUTTER_SEED` repeats a failure,
/// `KUTTER_FUZZ_CASES` goes on for longer.
pub(super) fn run(target: fn(&[u8]), corpus: &[Vec<u8>], cases: usize) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("KUTTER_SEED").unwrap_or(1);
    let cases = number("KUTTER_FUZZ_CASES").map_or(cases, |cases| cases as usize);
    for input in corpus {
        attempt(target, input, seed);
    }
    let mut dice = Dice::new(seed);
    for _ in 0..cases {
        let mut input = corpus[dice.below(corpus.len())].clone();
        for _ in 0..=dice.below(6) {
            mutate(&mut input, corpus, &mut dice);
        }
        input.truncate(MAX_INPUT);
        attempt(target, &input, seed);
    }
}

fn attempt(target: fn(&[u8]), input: &[u8], seed: u64) {
    let begun = Instant::now();
    let ended = catch_unwind(AssertUnwindSafe(|| target(input)));
    let took = begun.elapsed();
    if ended.is_err() || took > MAX_TIME {
        panic!("KUTTER_SEED={seed}, after {took:?}, of the input b\"{}\"", input.escape_ascii());
    }
}

fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], dice: &mut Dice) {
    let place = dice.below(input.len() + 1);
    let length = dice.below((input.len() - place).min(32) + 1);
    let range = place..place + length;
    match dice.below(10) {
        0 => drop(input.drain(range)),
        1 => drop(input.splice(range, PIECES[dice.below(PIECES.len())].iter().copied())),
        2 => drop(input.splice(place..place, PIECES[dice.below(PIECES.len())].iter().copied())),
        3 => {
            let again = input[range].repeat(1 + dice.below(64));
            input.splice(place..place, again);
        }
        4 => {
            let other = &corpus[dice.below(corpus.len())];
            let from = dice.below(other.len() + 1);
            let to = from + dice.below(other.len() - from + 1);
            input.splice(range, other[from..to].iter().copied());
        }
        5 => input.truncate(place),
        6 if !input.is_empty() => {
            let place = place.min(input.len() - 1);
            input[place] ^= 1 << dice.below(8);
        }
        7 if !input.is_empty() => {
            let place = place.min(input.len() - 1);
            input[place] = SIGNS[dice.below(SIGNS.len())];
        }
        8 => input.insert(place, SIGNS[dice.below(SIGNS.len())]),
        _ => {
            let digits: Vec<usize> =
                (0..input.len()).filter(|place| input[*place].is_ascii_digit()).collect();
            if let Some(place) = digits.get(dice.below(digits.len().max(1))) {
                input[*place] = b'0' + u8::try_from(dice.below(10)).unwrap_or_default();
            }
        }
    }
}
