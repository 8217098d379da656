//! A patch: its head, and hunks that are found by their lines.

use std::collections::BTreeMap;

/// Texts of files by their paths.
pub type Sources = BTreeMap<String, String>;

pub struct Mutant {
    pub name: String,
    /// The rule that it breaks, and the loss without it.
    pub rule: String,
    pub catchers: Vec<Catcher>,
    hunks: Vec<Hunk>,
}

/// A test that must fail with the mutant.
pub struct Catcher {
    /// Its path in the simulation.
    pub test: String,
    /// The first seed to try.
    pub first: u64,
}

struct Hunk {
    file: String,
    old: String,
    new: String,
}

impl Catcher {
    fn parse(line: &str) -> Option<Catcher> {
        let line = line.strip_prefix("caught by ")?;
        let (test, first) = line.split_once(" from seed ").unwrap_or((line, "0"));
        Some(Catcher {
            test: test.to_string(),
            first: first.parse().ok()?,
        })
    }
}

impl Mutant {
    pub fn parse(name: &str, text: &str) -> Result<Mutant, String> {
        let (head, diff) = text.split_once("\n\n").ok_or("it has no head")?;
        let (rule, catchers) = head.split_once('\n').ok_or("no test is to catch it")?;
        let catchers = catchers
            .lines()
            .map(|line| Catcher::parse(line).ok_or(format!("not understood: {line}")))
            .collect::<Result<_, _>>()?;
        let (mut hunks, mut file): (Vec<Hunk>, _) = (Vec::new(), None);
        for line in diff.lines() {
            if let Some(path) = line.strip_prefix("+++ b/") {
                file = Some(path.to_string());
                continue;
            }
            if line.starts_with("--- a/") {
                continue;
            }
            if line.starts_with("@@ ") {
                let file = file.clone().ok_or("a hunk comes before its file")?;
                let (old, new) = (String::new(), String::new());
                hunks.push(Hunk { file, old, new });
                continue;
            }
            let hunk = hunks.last_mut().ok_or("a line comes before its hunk")?;
            let (sign, line) = line.split_at_checked(1).unwrap_or((" ", ""));
            if !matches!(sign, " " | "-" | "+") {
                return Err(format!("not a line of a hunk: {sign}{line}"));
            }
            for (text, other) in [(&mut hunk.old, "+"), (&mut hunk.new, "-")] {
                if sign != other {
                    text.push_str(line);
                    text.push('\n');
                }
            }
        }
        if hunks.iter().any(|hunk| hunk.old == hunk.new) || hunks.is_empty() {
            return Err("it changes nothing".into());
        }
        Ok(Mutant {
            name: name.to_string(),
            rule: rule.to_string(),
            catchers,
            hunks,
        })
    }

    /// The sources with this mutant. Each hunk has one place, else the broken rule would be unclear.
    pub fn apply(&self, sources: &Sources) -> Result<Sources, String> {
        let mut mutated = sources.clone();
        for Hunk { file, old, new } in &self.hunks {
            let wrong = |what: String| format!("{}.patch: {file}: {what}:\n{old}", self.name);
            let text = mutated
                .get_mut(file)
                .ok_or_else(|| wrong("the simulation has no such file".into()))?;
            let starts = text.match_indices('\n').map(|(at, _)| at + 1);
            let places: Vec<usize> = std::iter::once(0)
                .chain(starts)
                .filter(|at| text[*at..].starts_with(old.as_str()))
                .collect();
            match places[..] {
                [at] => text.replace_range(at..at + old.len(), new),
                _ => {
                    let count = places.len();
                    return Err(wrong(format!(
                        "these lines are there {count} times, not once"
                    )));
                }
            }
        }
        Ok(mutated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATCH: &str = "All is kept.\ncaught by tests::plain from seed 7\n\n--- a/x.rs\n+++ b/x.rs\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n \n";

    fn applied(text: &str) -> Result<String, String> {
        let sources = Sources::from([("x.rs".to_string(), text.to_string())]);
        let mutated = Mutant::parse("m", PATCH)
            .expect("it is right")
            .apply(&sources)?;
        Ok(mutated["x.rs"].clone())
    }

    #[test]
    fn a_hunk_is_found_by_its_lines() {
        assert_eq!(
            applied("zero\none\ntwo\n\nfour\n").as_deref(),
            Ok("zero\none\n2\n\nfour\n")
        );
        let none = applied("bone\ntwo\n\n").expect_err("half a line is no line");
        assert!(none.contains("0 times"), "{none}");
        let two = applied("one\ntwo\n\none\ntwo\n\n").expect_err("it is there twice");
        assert!(two.contains("2 times"), "{two}");
    }

    #[test]
    fn a_head_names_the_rule_and_the_test_that_catches_it() {
        let mutant = Mutant::parse("m", PATCH).expect("it is right");
        assert_eq!(
            (mutant.rule.as_str(), mutant.catchers.len()),
            ("All is kept.", 1)
        );
        assert_eq!(
            (mutant.catchers[0].test.as_str(), mutant.catchers[0].first),
            ("tests::plain", 7)
        );
        for wrong in [
            "",
            "All.\n\n",
            "All.\ncaught by luck from seed x\n\n",
            "All.\ncaught by x\n\n--- a/x\n",
        ] {
            assert!(Mutant::parse("m", wrong).is_err(), "{wrong:?}");
        }
    }
}
