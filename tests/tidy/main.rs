//! Rules of style and architecture, as a test: each breach is reported as `file:line: the breach (the reason of the rule)`.
//!
//! Reads the source as text. It does not parse Rust: comments and the inside of literals are blanked, and parts under
//! `#[cfg(test)]` too, where a rule is for the program only.

mod circles;
mod documents;
mod layers;
mod source;
mod types;
mod words;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use layers::{layers, places, stale};
use source::{Breach, Source, line_of};

/// Lines of a source file, at most.
const MOST_LINES: usize = 500;

/// Rules about one file.
fn breaches(s: &Source) -> Vec<Breach> {
    let mut all = Vec::new();
    shape(s, &mut all);
    if s.path.starts_with("src/") {
        layers(s, &mut all);
        places(s, &mut all);
        casts(s, &mut all);
    }
    all
}

/// `buffer.len().min(left as usize)` is 0 for 4 GiB where `usize` has 32 bits.
fn casts(s: &Source, all: &mut Vec<Breach>) {
    for (at, _) in s.program.match_indices(".min(") {
        let mut depth = 1;
        let rest = &s.program[at + ".min(".len()..];
        let end = rest.find(|c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth == 0
        });
        let limit = rest[..end.unwrap_or(0)].trim_end();
        let is_length = |value: &str| value.contains(|c: char| c.is_lowercase());
        if limit.strip_suffix(" as usize").is_some_and(is_length) {
            let what = "a length is cast before it is limited (write left.min(n as u64) as usize: usize may have 32 bits)";
            all.push(s.breach(line_of(&s.program, at), what));
        }
    }
}

fn shape(s: &Source, all: &mut Vec<Breach>) {
    let lines = s.text.lines().count();
    if lines >= MOST_LINES {
        all.push(s.breach(
            MOST_LINES,
            format!(
                "{lines} lines, must be under {MOST_LINES} (a file that one can read in one go)"
            ),
        ));
    }
    if !s.text.starts_with("//! ") {
        all.push(s.breach(1, "must open with a //! sentence of purpose (the reader learns first what the file is for)"));
    }
    for (i, line) in s.text.lines().enumerate() {
        if line.contains('\t') {
            all.push(s.breach(
                i + 1,
                "tab (indentation is four spaces; write \\t in a literal)",
            ));
        }
        if line.ends_with([' ', '\r']) {
            all.push(s.breach(i + 1, "space at the end of the line (noise in diffs)"));
        }
        // put together, so that this file does not name them
        for mark in [concat!("TO", "DO"), concat!("FIX", "ME")] {
            if line.contains(mark) {
                all.push(s.breach(
                    i + 1,
                    format!("{mark} (what is missing belongs in an issue)"),
                ));
            }
        }
    }
    if !s.text.ends_with('\n') || s.text.ends_with("\n\n") {
        all.push(s.breach(lines, "must end with exactly one newline"));
    }
}

/// Rules about all files together.
fn tree_breaches(sources: &[Source]) -> Vec<Breach> {
    let mut all = Vec::new();
    let homes: Vec<_> = sources
        .iter()
        .filter_map(|s| {
            s.lines_with(&s.program, "tiny_http")
                .first()
                .map(|line| (s, *line))
        })
        .collect();
    if homes.len() > 1 {
        let named = |(s, line): &(&Source, usize)| {
            s.breach(
                *line,
                "tiny_http (one file only names it, so that it can be replaced)",
            )
        };
        all.extend(homes.iter().map(named));
    }
    for s in sources.iter().filter(|s| s.path.starts_with("src/")) {
        let folder = format!("{}/", s.path.trim_end_matches(".rs"));
        if sources.iter().any(|other| other.path.starts_with(&folder)) {
            all.push(s.breach(
                1,
                format!("must be {folder}mod.rs (a module with files of its own is one folder)"),
            ));
        }
    }
    all
}

/// Modules are private, so that the compiler finds dead code: `internals` alone lists what tests use, item by item.
fn walls(sources: &[Source]) -> Vec<Breach> {
    let mut all = Vec::new();
    for s in sources.iter().filter(|s| s.path == "src/lib.rs") {
        for (i, line) in s.code.lines().enumerate() {
            let is_public = line.trim_start().starts_with("pub mod ");
            if is_public && line.trim() != "pub mod internals;" {
                all.push(s.breach(i + 1, "public module (tests take items from internals)"));
            }
        }
    }
    for s in sources.iter().filter(|s| s.path == "src/internals.rs") {
        for (at, _) in s.code.match_indices("pub use crate::") {
            let item = s.code[at + "pub use ".len()..]
                .split(';')
                .next()
                .unwrap_or("");
            let (module, items) = item.rsplit_once("::").unwrap_or((item, ""));
            let folder = module.replacen("crate", "src", 1).replace("::", "/");
            for item in items.trim_matches(['{', '}']).split(',').map(str::trim) {
                let is_module = [
                    format!("{folder}/{item}.rs"),
                    format!("{folder}/{item}/mod.rs"),
                ]
                .iter()
                .any(|path| sources.iter().any(|s| s.path == *path));
                let is_used = sources.iter().any(|s| {
                    s.path.starts_with("tests/") && !s.lines_with(&s.code, item).is_empty()
                });
                if item == "*" || is_module {
                    let what = format!("{module}::{item} (a whole module keeps dead items alive)");
                    all.push(s.breach(line_of(&s.code, at), what));
                } else if !item.is_empty() && !is_used {
                    let what = format!("{module}::{item} (no test uses it)");
                    all.push(s.breach(line_of(&s.code, at), what));
                }
            }
        }
    }
    all
}

/// Files that are modules under `#[cfg(test)] mod NAME;`.
fn test_files(s: &Source) -> Vec<String> {
    let stem = s.path.trim_end_matches(".rs");
    let dir = ["/mod", "/lib", "/main"]
        .iter()
        .find_map(|m| stem.strip_suffix(m))
        .unwrap_or(stem);
    let names = s.code.split("#[cfg(test)]").skip(1).filter_map(|item| {
        let name = item.trim_start().strip_prefix("mod ")?.split_once(';')?.0;
        name.chars()
            .all(|c| c.is_alphanumeric() || c == '_')
            .then(|| name.to_string())
    });
    names
        .flat_map(|n| [format!("{dir}/{n}.rs"), format!("{dir}/{n}/")])
        .collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("cannot read {path}: {e}"))
}

/// Paths below the repository's root of all files in `dir`, sorted; build output, hidden directories and
/// pictures left out.
fn files(dir: &str, ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(root().join(dir)) else {
        return found;
    };
    for entry in entries.map(|e| e.expect("an entry of a directory of the repository")) {
        let path = format!("{dir}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            found.extend(files(&path, ending));
        } else if path.ends_with(ending) && !path.ends_with(".png") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn report(breaches: Vec<Breach>) {
    let lines: Vec<String> = breaches
        .iter()
        .map(|b| format!("{}:{}: {}", b.path, b.line, b.what))
        .collect();
    assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
}

#[test]
fn the_sources_keep_the_rules() {
    // what cargo fuzz builds is not ours
    let paths = ["src", "tests"]
        .iter()
        .flat_map(|dir| files(dir, ".rs"))
        .filter(|path| !path.starts_with("tests/fuzz/target/"));
    let mut sources: Vec<Source> = paths.map(|path| Source::new(&path, &read(&path))).collect();
    assert!(
        sources.iter().any(|s| s.path == "src/lib.rs"),
        "the sources were not found"
    );
    let of_tests: Vec<String> = sources.iter().flat_map(test_files).collect();
    for s in &mut sources {
        if of_tests
            .iter()
            .any(|t| s.path == *t || (t.ends_with('/') && s.path.starts_with(t)))
        {
            s.program.clear();
        }
    }
    report(
        sources
            .iter()
            .flat_map(breaches)
            .chain(tree_breaches(&sources))
            .chain(stale(&sources))
            .chain(types::repeated(&sources))
            .chain(sources.iter().flat_map(words::in_literals))
            .chain(sources.iter().flat_map(words::in_comments))
            .chain(walls(&sources))
            .chain(circles::circles(&sources))
            .collect(),
    );
}

/// The rules themselves: (path, text) and what must be said about it, "" for nothing.
#[test]
fn each_rule_catches_its_breach() {
    let check = |path: &str, text: &str, wants: &str| {
        let got = breaches(&Source::new(path, &format!("//! Test.\n{text}\n")));
        let got: BTreeMap<usize, &str> = got.iter().map(|b| (b.line, b.what.as_str())).collect();
        match wants {
            "" => assert!(got.is_empty(), "{path}: {text}: {got:?}"),
            _ => assert!(
                got.get(&2).is_some_and(|w| w.contains(wants)),
                "{path}: {text}: {got:?}"
            ),
        }
    };
    check(
        "src/hub/a.rs",
        "use crate::client::Hub;",
        "does not know the client side",
    );
    for cast in ["left as usize", "(end - at) as usize"] {
        let text = format!("fn f() {{ n.min({cast}); }}");
        check("src/hub/a.rs", &text, "cast before it is limited");
    }
    check(
        "src/hub/a.rs",
        "fn f() { n.min(SHORT_BODY as usize); left.min(n as u64) as usize; }",
        "",
    );
    check(
        "src/hub/a.rs",
        "use crate::{wire, daemon::Event};",
        "uses crate::daemon",
    );
    check(
        "src/hub/a.rs",
        "fn f(x: crate::messages::Queue) {}",
        "uses crate::messages",
    );
    check(
        "src/hub/a.rs",
        "use crate::{wire::{self, client}, error};",
        "",
    );
    check("src/hub/a.rs", "use super::messages; // crate::cli", "");
    check(
        "src/hub/a.rs",
        "const A: &str = \"crate::cli and println!\";",
        "",
    );
    check(
        "src/hub/a.rs",
        "const A: &str = r#\"a \" crate::cli\"#; use crate::cli;",
        "uses crate::cli",
    );
    check(
        "src/hub/a.rs",
        "const A: char = '\"'; use crate::cli; const B: char = '\"';",
        "uses crate::cli",
    );
    check("src/messages/a.rs", "use crate::hub;", "knows neither");
    check(
        "src/wire/mod.rs",
        "use std::{fmt, fs};",
        "std::fs in a pure file",
    );
    check(
        "src/wire/mod.rs",
        "fn f() { let t = SystemTime::now(); }",
        "in a pure file",
    );
    check(
        "src/messages/plan.rs",
        "fn f() { std::thread::yield_now(); }",
        "in a pure file",
    );
    check(
        "src/messages/plan.rs",
        "#[cfg(test)] pub fn switch() {}",
        "it is the same in tests",
    );
    check(
        "src/files/engine/a.rs",
        "#[cfg(not(test))] fn f() {}",
        "it is the same in tests",
    );
    check("src/files/engine/a.rs", "#[cfg(test)]\nmod sim;", "");
    check("src/a.rs", "fn f() { println!(); }", "println!");
    check("src/a.rs", "fn f() { my_println!(); }", "");
    check("src/a.rs", "const PAUSE: u64 = 1;", "in which unit");
    check("src/a.rs", "const RETRY_PAUSE: u64 = 1;", "");
    check("src/a.rs", "fn f() { x.unwrap(); }", ".unwrap()");
    check(
        "src/a.rs",
        "#[cfg(test)]\nmod tests {\n    fn f() { x.unwrap(); }\n}",
        "",
    );
    check(
        "src/a.rs",
        "#[cfg(test)] mod tests; fn f() { x.unwrap(); }",
        ".unwrap()",
    );
    check("tests/a.rs", "fn f() { x.unwrap(); }", "");
    check("src/a.rs", "fn f() { unsafe { g() } }", "one home");
    check("src/clock.rs", "fn f() { unsafe { g() } }", "");
    check("src/a.rs", "#![deny(unsafe_code)]", "");
    check(
        "src/a.rs",
        "use std::thread; fn f() { thread::Builder::new(); }",
        "threads start in",
    );
    check(
        "src/hub/server/x.rs",
        "fn f() { std::thread::Builder::new(); }",
        "",
    );
    check(
        "src/a.rs",
        "fn f() { std::env::var_os(x); }",
        "the environment is read in",
    );
    check("src/a.rs", concat!("// TO", "DO"), "belongs in an issue");
    check("src/a.rs", "fn f<'a>(x: &'a str) {} \n", "space at the end");
    assert_eq!(breaches(&Source::new("src/a.rs", "fn f() {}\n")).len(), 1);
    assert_eq!(
        breaches(&Source::new(
            "src/a.rs",
            &format!("//! A.\n{}", "//\n".repeat(499))
        ))
        .len(),
        1
    );
    let two: Vec<Source> = ["src/a.rs", "src/b.rs"]
        .iter()
        .map(|p| Source::new(p, "//! A.\nuse tiny_http::Server;\n"))
        .collect();
    assert_eq!(tree_breaches(&two).len(), 2);
    assert_eq!(
        test_files(&Source::new(
            "src/hub/mod.rs",
            "//! A.\n#[cfg(test)]\nmod x;\n"
        )),
        ["src/hub/x.rs", "src/hub/x/"]
    );
}

#[test]
fn a_module_with_files_is_one_folder() {
    let sources = ["src/a.rs", "src/a/b.rs", "src/c/mod.rs", "src/c/d.rs"]
        .map(|path| Source::new(path, "//! Test.\n"));
    let found: Vec<String> = tree_breaches(&sources)
        .into_iter()
        .map(|b| b.path)
        .collect();
    assert_eq!(found, ["src/a.rs"]);
}

#[test]
fn modules_are_private_and_internals_lists_items() {
    let sources = [
        ("src/lib.rs", "pub mod internals;\npub mod wire;\nmod hub;\n"),
        (
            "src/internals.rs",
            "pub use crate::hub::{Hub, keys};\npub use crate::wire::*;\npub use crate::wire::Old;\n",
        ),
        ("src/hub/keys.rs", ""),
        ("tests/it/a.rs", "use mesync::internals::{Hub, keys};\n"),
    ]
    .map(|(path, text)| Source::new(path, text));
    let found: Vec<(String, usize)> = walls(&sources)
        .into_iter()
        .map(|b| (b.path, b.line))
        .collect();
    let at = |path: &str, line| (path.to_string(), line);
    assert_eq!(
        found,
        [
            at("src/lib.rs", 2),
            at("src/internals.rs", 1),
            at("src/internals.rs", 2),
            at("src/internals.rs", 3)
        ]
    );
}
