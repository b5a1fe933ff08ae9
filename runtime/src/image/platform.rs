//! Which of an index's images runs on this machine.

use oci_spec::image::{Arch, Os};

/// An instruction set with its level, as an index names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    pub(super) arch: Arch,
    /// The highest level: `3` for `amd64/v3` or `arm/v7`.
    pub(super) level: u32,
}

impl Machine {
    /// The one this runs on.
    pub(super) fn here() -> Self {
        let arch = Arch::default();
        let level = match arch {
            Arch::Amd64 => amd64_level(),
            Arch::ARM64 => 8,
            Arch::ARM => 7,
            _ => 0,
        };
        Self { arch, level }
    }

    /// How well an image for this platform suits the machine, the higher the better; nothing when it
    /// does not run here.
    pub(super) fn suits(&self, os: &Os, arch: &Arch, variant: Option<&str>) -> Option<u32> {
        if *os != Os::Linux || *arch != self.arch {
            return None;
        }
        // Without a word, an image is for the level that every machine of the kind has.
        let least = match self.arch {
            Arch::Amd64 => 1,
            Arch::ARM64 => 8,
            Arch::ARM => 7,
            _ => 0,
        };
        let level = match variant.filter(|variant| !variant.is_empty()) {
            None => least,
            Some(variant) => variant.trim_start_matches('v').parse().ok()?,
        };
        (level <= self.level).then_some(level)
    }
}

/// The levels are those of the x86-64 psABI.
#[cfg(target_arch = "x86_64")]
fn amd64_level() -> u32 {
    macro_rules! has {
        ($($feature:tt),*) => { $(std::is_x86_feature_detected!($feature))&&* };
    }
    let second = has!("cmpxchg16b", "popcnt", "sse3", "ssse3", "sse4.1", "sse4.2");
    let third = second && has!("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "lzcnt", "movbe");
    let fourth = third && has!("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl");
    1 + u32::from(second) + u32::from(third) + u32::from(fourth)
}

#[cfg(not(target_arch = "x86_64"))]
fn amd64_level() -> u32 {
    1
}

/// The entry that suits best; the first of equals. An index that says nothing of platforms at all
/// means its first image.
pub(super) fn choose<'a, T>(
    machine: &Machine,
    entries: &'a [T],
    platform: impl Fn(&'a T) -> Option<(&'a Os, &'a Arch, Option<&'a str>)>,
) -> Option<&'a T> {
    let mut best: Option<(u32, &T)> = None;
    let mut silent = true;
    for entry in entries {
        let Some((os, arch, variant)) = platform(entry) else { continue };
        silent = false;
        if let Some(level) = machine.suits(os, arch, variant)
            && best.is_none_or(|(known, _)| level > known)
        {
            best = Some((level, entry));
        }
    }
    best.map(|(_, entry)| entry).or_else(|| entries.first().filter(|_| silent))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Entry = Option<(Os, Arch, Option<&'static str>)>;

    fn chosen(arch: Arch, level: u32, entries: &[Entry]) -> Option<usize> {
        let machine = Machine { arch, level };
        let chosen = choose(&machine, entries, |entry| {
            entry.as_ref().map(|(os, arch, variant)| (os, arch, *variant))
        })?;
        entries.iter().position(|entry| std::ptr::eq(entry, chosen))
    }

    #[test]
    fn the_best_image_that_runs_here_is_chosen() {
        let linux = |arch, variant| Some((Os::Linux, arch, variant));
        let index = [
            Some((Os::Windows, Arch::Amd64, None)),
            linux(Arch::ARM, Some("v6")),
            linux(Arch::ARM, Some("v7")),
            linux(Arch::ARM64, Some("v8")),
            linux(Arch::Amd64, None),
            linux(Arch::Amd64, Some("v3")),
            linux(Arch::Amd64, Some("v4")),
        ];
        for (arch, level, expected) in [
            (Arch::Amd64, 1, Some(4)),
            (Arch::Amd64, 3, Some(5)),
            (Arch::Amd64, 4, Some(6)),
            (Arch::ARM, 6, Some(1)),
            (Arch::ARM, 7, Some(2)),
            (Arch::ARM, 5, None),
            (Arch::ARM64, 8, Some(3)),
            (Arch::s390x, 0, None),
        ] {
            assert_eq!(chosen(arch.clone(), level, &index), expected, "{arch} {level}");
        }
    }

    #[test]
    fn an_index_without_platforms_means_its_first_image() {
        assert_eq!(chosen(Arch::Amd64, 1, &[None, None]), Some(0));
        assert_eq!(chosen(Arch::Amd64, 1, &[]), None);
        // What only vouches for others says that it is for no platform.
        let unknown =
            Some((Os::Other("unknown".to_owned()), Arch::Other("unknown".to_owned()), None));
        assert_eq!(chosen(Arch::Amd64, 1, &[unknown]), None);
    }

    #[test]
    fn an_unknown_variant_does_not_run_here() {
        let entries = [Some((Os::Linux, Arch::Amd64, Some("vector")))];
        assert_eq!(chosen(Arch::Amd64, 4, &entries), None);
    }
}
