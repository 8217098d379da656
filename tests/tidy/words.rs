//! Words that blur the subject of a sentence, in comments, in help and in the log.

use crate::source::{Breach, Source};

/// The subject is the thing (worker, caller, hub, file), and the verb says what it does: see CONTRIBUTING.md.
const WORDS: &[&str] = &[
    "stands",
    "goes",
    "comes",
    "of ours",
    "all the same",
    "for good",
    "afresh",
    "in vain",
    "in step",
    "what is",
    "who",
    "whom",
    "whoever",
    "nobody",
    "somebody",
    "everybody",
];

/// Files whose literals are help.
const HELP: &[&str] = &["src/cli/table/", "src/cli/help.rs", "src/config/"];

/// Such words of a text, each as a word of its own.
fn found(text: &str) -> Vec<&'static str> {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let stands_alone = |at: usize, word: &str| {
        !is_part(text[..at].chars().next_back()) && !is_part(text[at + word.len()..].chars().next())
    };
    WORDS
        .iter()
        .filter(|word| {
            text.match_indices(**word)
                .any(|(at, _)| stands_alone(at, word))
        })
        .copied()
        .collect()
}

/// The comment of a line, if it is nothing else.
fn comment(line: &str) -> Option<&str> {
    line.trim_start().strip_prefix("//")
}

/// Comments with such words.
pub fn in_comments(s: &Source) -> Vec<Breach> {
    if s.path.starts_with("tests/tidy/") {
        return Vec::new();
    }
    let mut all = Vec::new();
    for (i, line) in s.text.lines().enumerate() {
        if let Some(word) = comment(line).map(found).unwrap_or_default().first() {
            let what = format!("{word:?} (name the subject: see CONTRIBUTING.md)");
            all.push(s.breach(i + 1, what));
        }
    }
    all
}

/// Such words in help, and at the beginning of a log line.
pub fn in_literals(s: &Source) -> Vec<Breach> {
    let mut all = Vec::new();
    for (i, line) in s.text.lines().enumerate() {
        let code = line.trim_start();
        if comment(line).is_some() || !s.path.starts_with("src/") {
            continue;
        }
        if s.is_in(HELP)
            && let Some((_, literal)) = code.split_once('"')
            && let Some(word) = found(literal).first()
        {
            all.push(s.breach(i + 1, format!("\"{word}\" in help (name the subject)")));
        }
        if let Some((_, literal)) = code
            .split_once("log::")
            .and_then(|(_, l)| l.split_once("!(\""))
            && ["who", "nobody", "somebody"]
                .iter()
                .any(|w| literal.starts_with(w))
        {
            all.push(s.breach(i + 1, "a log line begins with its verb or its subject"));
        }
    }
    all
}

#[test]
fn such_words_are_found_as_words_only() {
    assert_eq!(found("what is whole stands"), ["stands", "what is"]);
    assert!(found("whose hub understands and foregoes").is_empty());
    let check = |path: &str, text: &str| in_literals(&Source::new(path, text)).len();
    assert_eq!(
        check("src/cli/table/a.rs", "//! A.\n\"who reads it\",\n"),
        1
    );
    assert_eq!(
        check("src/cli/table/a.rs", "//! A.\n// who\n\"the hub\",\n"),
        0
    );
    assert_eq!(check("src/a.rs", "//! A.\nlog::info!(\"who came\");\n"), 1);
    let bad = Source::new("src/nowhere/a.rs", "//! A.\n// who reads it\n");
    assert_eq!(in_comments(&bad).len(), 1);
}
