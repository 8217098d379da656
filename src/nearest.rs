//! Finds the closest name to a mistyped one: for commands, flags, words and settings.

/// The name that was probably meant: at most a third of the letters differ.
pub fn nearest<'a>(typed: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_lowercase();
    // a prefix is surely meant, and the shortest of several names is the closest
    let begun = |name: &str| typed.chars().count() >= 2 && name.starts_with(&typed);
    let (begun, distance, name) = names
        .into_iter()
        .map(|n| (begun(n), distance(&typed, n), n))
        .min_by_key(|(b, d, _)| (!b, *d))?;
    (begun || distance * 3 <= name.chars().count().max(3)).then_some(name)
}

/// The number of letters to insert, delete, replace or swap with a neighbour (Damerau and
/// Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    // names are shorter, and the time is the product of the lengths
    let (a, b): (Vec<char>, Vec<char>) =
        (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_near_if_few_letters_differ() {
        let check = |typed: &str, wants: Option<&str>| {
            assert_eq!(
                nearest(typed, ["poll_interval", "log", "listen"]),
                wants,
                "{typed}"
            )
        };
        check("pol_interval", Some("poll_interval"));
        check("POLL_INTERVAL", Some("poll_interval"));
        check("lsiten", Some("listen"));
        check("poll", Some("poll_interval"));
        check("lgo", Some("log"));
        check("", None);
        check("nonsense", None);
        assert_eq!(nearest("x", []), None);
    }
}
