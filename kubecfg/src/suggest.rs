//! What somebody may have meant.

/// The known word nearest to a mistyped one, when it is near enough to be what was meant.
pub(crate) fn nearest<'a>(
    typed: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // One slip in a short word, a third of a long one: beyond that a guess is more likely wrong.
    let allowed = (typed.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|word| (strsim::damerau_levenshtein(typed, word), word))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, word)| word)
}

/// `; did you mean "…"?`, or nothing.
pub(crate) fn hint<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(typed, known).map_or_else(String::new, |word| format!("; did you mean \"{word}\"?"))
}

#[cfg(test)]
mod tests {
    use super::{hint, nearest};

    #[test]
    fn finds_what_was_meant_and_nothing_far_off() {
        assert_eq!(nearest("pod", ["pods", "nodes"]), Some("pods"));
        assert_eq!(nearest("servcies", ["secrets", "services"]), Some("services"));
        assert_eq!(nearest("banana", ["pods", "services"]), None);
        assert_eq!(hint("wbe", ["web", "db"]), "; did you mean \"web\"?");
        assert_eq!(hint("x", ["web"]), "");
    }
}
