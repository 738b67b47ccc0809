//! Suggests the name that the user probably meant.

/// The most names that are listed when none is similar.
const LISTED_MAX: usize = 12;

/// ` (did you mean ...?)`, or the list of names if none is similar and the list is short.
pub(crate) fn suggestion<'n>(written: &str, names: impl IntoIterator<Item = &'n str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    match nearest(written, &names) {
        Some(name) => format!(" (did you mean `{name}`?)"),
        None if (1..=LISTED_MAX).contains(&names.len()) => format!(" (there is `{}`)", names.join("`, `")),
        None => String::new(),
    }
}

/// The name with the fewest edits, if they are few compared to its length.
pub(crate) fn nearest<'n>(written: &str, names: &[&'n str]) -> Option<&'n str> {
    let written = written.to_lowercase();
    let close = |name: &&'n str| {
        let plain = name.to_lowercase();
        // `IOS` means `PLATFORM_IOS`, and `total` means `total_cents`.
        let part = plain.ends_with(&format!("_{written}")) || plain.starts_with(&format!("{written}_"));
        (if part && written.len() >= 2 { 0 } else { edits(&written, &plain) }, *name)
    };
    let (edits, name) = names.iter().map(close).min_by_key(|(edits, _)| *edits)?;
    (edits <= 1 + name.len().min(written.len()) / 4).then_some(name)
}

/// The edits between two names, with a swap of neighbours as one.
fn edits(a: &str, b: &str) -> usize {
    // Nobody means a name by a text of another order of length.
    if a.len().abs_diff(b.len()) > 32 || a.len() > 256 { usize::MAX } else { strsim::osa_distance(a, b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_probably_meant_is_named() {
        let names = ["commerce", "custom", "interaction", "screen", "system", "user"];
        assert_eq!(suggestion("commerse", names), " (did you mean `commerce`?)");
        assert_eq!(suggestion("COMMERCE", names), " (did you mean `commerce`?)");
        assert_eq!(suggestion("usre", names), " (did you mean `user`?)");
        assert!(suggestion("zzzzzzzz", names).starts_with(" (there is `commerce`, "));
        assert_eq!(suggestion("IOS", ["PLATFORM_UNSPECIFIED", "PLATFORM_IOS"]), " (did you mean `PLATFORM_IOS`?)");
        assert_eq!(suggestion("total", ["total_cents", "cart_id"]), " (did you mean `total_cents`?)");
        assert_eq!(suggestion(&"x".repeat(10_000), vec!["a"; 40]), "");
    }
}
