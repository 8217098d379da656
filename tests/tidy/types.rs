//! A type name has one meaning in the crate.

use std::collections::BTreeMap;

use crate::source::{Breach, Source, line_of};

/// Names that may be defined more than once.
const SHARED_NAMES: &[&str] = &[
    // the same thing, built with and without TLS
    "Acceptor",
    "Certificates",
    "Session",
    "Trust",
    // the part of a struct behind its lock or `Arc`, private to one file
    "Inner",
    "Shared",
    // a row of a table, private to one file
    "Row",
];

/// The names of types that the program defines in a file, with their lines.
fn defined(s: &Source) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let mut start = 0;
    for line in s.program.split_inclusive('\n') {
        let mut words = line.split_whitespace().peekable();
        if words.peek().is_some_and(|w| w.starts_with("pub")) {
            let visibility = words.next().unwrap_or_default();
            // `pub(in crate::x)` is two words
            if visibility.contains('(') && !visibility.ends_with(')') {
                words.next();
            }
        }
        let keyword = words.next().unwrap_or_default();
        // a `type` that is indented is one of a trait
        let is_type = matches!(keyword, "struct" | "enum" | "union" | "trait")
            || keyword == "type" && !line.starts_with(' ');
        let name: String = words
            .next()
            .unwrap_or_default()
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        if is_type && !name.is_empty() {
            found.push((name, line_of(&s.program, start)));
        }
        start += line.len();
    }
    found
}

/// Second definitions of a type name.
pub fn repeated(sources: &[Source]) -> Vec<Breach> {
    let mut by_name = BTreeMap::<String, Vec<Breach>>::new();
    for s in sources.iter().filter(|s| s.path.starts_with("src/")) {
        for (name, line) in defined(s) {
            let what = format!("a second type is called {name} (name it after what it is)");
            by_name.entry(name).or_default().push(s.breach(line, what));
        }
    }
    by_name
        .into_iter()
        .filter(|(name, all)| all.len() > 1 && !SHARED_NAMES.contains(&name.as_str()))
        .flat_map(|(_, all)| all.into_iter().skip(1))
        .collect()
}

#[test]
fn types_are_found_with_their_names() {
    let s = Source::new(
        "src/a.rs",
        "//! A.\npub(crate) struct One<T>(T);\n    type Item = u8;\ntype Two = u8;\npub(in crate::a) enum Three {}\n\
         // struct Four;\n#[cfg(test)]\nmod tests {\n    struct Five;\n}\n",
    );
    let found: Vec<_> = defined(&s).into_iter().collect();
    let at = |name: &str, line| (name.to_string(), line);
    assert_eq!(found, [at("One", 2), at("Two", 4), at("Three", 5)]);
}

#[test]
fn a_second_type_of_a_name_is_refused() {
    let sources = ["src/a.rs", "src/b.rs"]
        .map(|path| Source::new(path, "//! A.\nstruct Thing;\nstruct Row;\n"));
    let found: Vec<_> = repeated(&sources)
        .into_iter()
        .filter(|b| b.path.starts_with("src/"))
        .collect();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].path.as_str(), found[0].line), ("src/b.rs", 2));
}
