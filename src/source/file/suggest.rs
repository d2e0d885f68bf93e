//! "Did you mean".

/// The candidate most like `word`, if any is like it at all.
pub(crate) fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = word.to_lowercase().replace('-', "_");
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&folded, &candidate.to_lowercase().replace('-', "_")), candidate))
        .filter(|(score, _)| *score >= 0.82)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// "did you mean `x`?", else the list of what is known, else what to do when nothing is.
pub(crate) fn or_list(word: &str, known: &[&str], what: &str, none: &str) -> String {
    match closest(word, known.iter().copied()) {
        Some(closest) => format!("did you mean `{closest}`?"),
        None if known.is_empty() => none.to_owned(),
        None => format!("{what}: {}", list(known)),
    }
}

/// `a`, `b`, `c`.
pub(crate) fn list(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
