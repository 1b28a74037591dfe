//! NATS subjects, as far as a configuration can get them wrong.

/// Tokens without spaces, `*` alone in its token, `>` alone in the last one.
pub(crate) fn is_valid(subject: &str) -> bool {
    let tokens: Vec<&str> = subject.split('.').collect();
    tokens.iter().enumerate().all(|(i, token)| {
        let last = i + 1 == tokens.len();
        !token.is_empty()
            && token.chars().all(|c| c.is_ascii_graphic())
            && (!token.contains('*') || *token == "*")
            && (!token.contains('>') || (*token == ">" && last))
    })
}

/// Returns whether a message can match both. JetStream allows that for no two streams, and no two
/// subjects of one.
pub(super) fn overlap(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        match (one.next(), other.next()) {
            (None, None) | (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
            _ => return false,
        }
    }
}

/// Returns whether every message that matches `inner` also matches `outer`.
pub(crate) fn covers(outer: &str, inner: &str) -> bool {
    let (mut outer, mut inner) = (outer.split('.'), inner.split('.'));
    loop {
        match (outer.next(), inner.next()) {
            (None, None) | (Some(">"), Some(_)) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

/// Returns the first pattern that takes a subject. A subject is a pattern without wildcards.
pub(crate) fn pattern_of<'a>(patterns: &'a [String], subject: &str) -> Option<&'a str> {
    let pattern = patterns.iter().find(|pattern| overlap(pattern, subject))?;
    Some(pattern)
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn a_pattern_covers_what_it_matches_in_every_case() {
        for (outer, inner) in [
            (">", "a"),
            (">", "a.>"),
            ("a.>", "a.b.>"),
            ("a.>", "a.*"),
            ("a.*", "a.*"),
            ("a.*", "a.b"),
            ("a.*.>", "a.b.c"),
        ] {
            assert!(covers(outer, inner), "{outer} {inner}");
        }
        for (outer, inner) in [
            ("a", "b"),
            ("a.>", "a"),
            ("a.b", "a.*"),
            ("a.*", "a.>"),
            ("a.b.>", "a.>"),
            ("a.*", "a.b.c"),
        ] {
            assert!(!covers(outer, inner), "{outer} {inner}");
        }
    }
}
