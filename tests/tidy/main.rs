//! Rules of style and architecture, as a test: each breach is reported as `file:line: the breach (the reason of the rule)`.
//!
//! Reads the source as text. It does not parse Rust: comments and the inside of literals are blanked, and parts under
//! `#[cfg(test)]` too, where a rule is for the program only.

mod circles;
mod source;
mod types;
mod words;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use source::{Breach, Source, line_of, used_from};

/// Lines of a source file, at most.
const MOST_LINES: usize = 500;

/// Files that are longer than [`MOST_LINES`] and are to be split; this list only shrinks.
const LONG_FILES: &[&str] = &["tests/fuzz/checks.rs", "tests/tidy/main.rs"];

/// Decide only: no files, no sockets, no clock, no threads.
const PURE: &[&str] = &[
    "src/wire/",
    "src/relpath.rs",
    "src/chunking.rs",
    "src/error.rs",
    "src/sse.rs",
    "src/backoff.rs",
    "src/messages/plan.rs",
    "src/files/plan/",
    "src/files/ignore.rs",
    "src/files/debounce.rs",
    "src/files/state/codec.rs",
    "src/files/conflict.rs",
    "src/files/delete_guard.rs",
    "src/files/engine/queue/",
    "src/files/engine/rows.rs",
    "src/files/remote/rows.rs",
    "src/hub/server/head.rs",
    "src/hub/files/head.rs",
    "src/hub/files/multipart/",
    "src/hub/files/lines.rs",
    "src/hub/files/answer.rs",
    "src/hub/token.rs",
];

/// May start threads. A directory ends with a slash.
const THREADS: &[&str] = &[
    "src/daemon/",
    "src/service.rs",
    "src/joining/background.rs",
    "src/hub/mod.rs",
    "src/hub/commit.rs",
    "src/hub/server/",
    "src/messages/hooks/",
];

/// Names of constants that do not say what they are of.
const BARE_CONSTANTS: &[&str] = &[
    "const AGAIN:",
    "const ATTEMPTS:",
    "const BUFFER:",
    "const CHUNK:",
    "const FULL:",
    "const KEPT:",
    "const LIMIT:",
    "const MAX:",
    "const MOMENT:",
    "const MOST:",
    "const PATIENCE:",
    "const PAUSE:",
    "const PIECE:",
    "const QUIET:",
    "const SIZE:",
    "const SMALL:",
    "const STACK:",
    "const STEP:",
    "const TIMEOUT:",
    "const TRIES:",
    "const TURN:",
    "const WINDOW:",
];

/// May say `unsafe`.
const UNSAFE: &[&str] = &["src/clock.rs"];

/// What files must not use: (files, modules of the crate, why).
const LAYERS: &[(&str, &[&str], &str)] = &[
    (
        "src/hub/",
        &[
            "daemon",
            "client",
            "messages",
            "transfer",
            "login",
            "cli",
            "credentials",
        ],
        "the hub does not know the client side",
    ),
    (
        "src/messages/",
        &["hub", "files", "cli", "daemon"],
        "the message half knows neither the hub's insides nor the file half",
    ),
    (
        "src/files/",
        &["hub", "messages", "cli", "daemon"],
        "the file half knows neither the hub's insides nor the message half",
    ),
    (
        "src/files/engine/",
        &["disk", "client", "database", "transfer"],
        "the engine reaches tree, state and hub through its traits only",
    ),
    (
        "src/daemon/",
        &["hub", "cli"],
        "the client knows neither the hub's insides nor its own command line",
    ),
    (
        "src/client/",
        ABOVE_HTTP,
        "the client's HTTP knows only what travels",
    ),
    (
        "src/login.rs",
        &[
            "hub", "messages", "files", "cli", "daemon", "client", "transfer",
        ],
        "the login file knows no HTTP",
    ),
    (
        "src/transfer/",
        ABOVE_TRANSFER,
        "transfers do what they are told, and know no directory that is kept in sync",
    ),
    ("src/wire/", UPPER, "the bottom uses nothing above it"),
    ("src/error.rs", UPPER, "the bottom uses nothing above it"),
    ("src/clock.rs", UPPER, "the bottom uses nothing above it"),
    ("src/disk.rs", UPPER, "the bottom uses nothing above it"),
    ("src/config/", UPPER, "the bottom uses nothing above it"),
];
const ABOVE_HTTP: &[&str] = &["hub", "messages", "files", "transfer", "cli", "daemon"];
const ABOVE_TRANSFER: &[&str] = &["hub", "messages", "files", "cli", "daemon"];
const UPPER: &[&str] = &[
    "hub",
    "messages",
    "files",
    "transfer",
    "cli",
    "daemon",
    "client",
    "login",
    "service",
    "credentials",
];

/// Rules about one file.
fn breaches(s: &Source) -> Vec<Breach> {
    let mut all = Vec::new();
    shape(s, &mut all);
    if s.path.starts_with("src/") {
        layers(s, &mut all);
        places(s, &mut all);
    }
    all
}

fn shape(s: &Source, all: &mut Vec<Breach>) {
    let lines = s.text.lines().count();
    let is_listed = LONG_FILES.contains(&s.path.as_str());
    if (lines >= MOST_LINES) != is_listed {
        let what = if is_listed {
            "is no longer long: remove it from LONG_FILES"
        } else {
            "must be under"
        };
        all.push(s.breach(
            MOST_LINES,
            format!("{lines} lines, {what} {MOST_LINES} (a file that one can read in one go)"),
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

fn layers(s: &Source, all: &mut Vec<Breach>) {
    for (place, unknown, why) in LAYERS.iter().filter(|(place, _, _)| s.is_in(&[place])) {
        for (line, module) in used_from(&s.program, "crate")
            .into_iter()
            .filter(|(_, m)| unknown.contains(&m.as_str()))
        {
            all.push(s.breach(line, format!("{place} uses crate::{module} ({why})")));
        }
    }
    if s.is_in(PURE) || s.path.starts_with("src/files/engine/") {
        let tests = s.code.match_indices("#[cfg(test)]");
        let switches = tests
            .filter(|(at, cfg)| {
                let item = s.code[at + cfg.len()..].trim_start().lines().next();
                !item.is_some_and(|item| item.contains("mod "))
            })
            .chain(s.code.match_indices("not(test)"))
            .chain(s.code.match_indices("cfg!(test)"));
        for (at, what) in switches {
            all.push(s.breach(
                line_of(&s.code, at),
                format!("{what} in what decides (it is the same in tests; tests/mutants/ breaks its rules from outside)"),
            ));
        }
    }
    if s.is_in(PURE) {
        let modules = used_from(&s.program, "std")
            .into_iter()
            .filter(|(_, m)| ["fs", "net", "thread", "process"].contains(&m.as_str()));
        let mut found: Vec<(usize, String)> = modules
            .map(|(line, m)| (line, format!("std::{m}")))
            .collect();
        for word in [
            "SystemTime::now",
            "Instant::now",
            "clock::now",
            "clock::monotonic",
            "thread::",
            "crate::disk",
        ] {
            found.extend(
                s.lines_with(&s.program, word)
                    .into_iter()
                    .map(|line| (line, word.to_string())),
            );
        }
        for (line, what) in found {
            all.push(s.breach(line, format!("{what} in a pure file (it decides; values such as the time come in as arguments)")));
        }
    }
}

fn places(s: &Source, all: &mut Vec<Breach>) {
    let mut rule = |form: &str, words: &[&str], why: &str| {
        for word in words {
            all.extend(
                s.lines_with(form, word)
                    .into_iter()
                    .map(|line| s.breach(line, format!("{word} ({why})"))),
            );
        }
    };
    rule(
        &s.program,
        &["println!", "eprintln!", "print!", "eprint!", "dbg!"],
        "panics when standard output or error is full or closed: use the output of cli, or the log",
    );
    rule(
        &s.program,
        &[".unwrap()"],
        "what comes from outside is an error with words; what cannot happen is .expect(\"why\")",
    );
    rule(
        &s.code,
        &[concat!("match () ", "{")],
        "conditions one after the other are if and else",
    );
    rule(
        &s.program,
        BARE_CONSTANTS,
        "a constant says of what it is and in which unit: MAX_DUE_PATHS, ACCEPT_RETRY_PAUSE",
    );
    if !s.is_in(UNSAFE) {
        rule(&s.code, &["unsafe"], "unsafe has one home, src/clock.rs");
    }
    if s.path != "src/config/environment.rs" {
        rule(
            &s.program,
            &["env::var", "env::var_os", "env::vars", "env::set_var"],
            "the environment is read in config/environment.rs",
        );
    }
    if !s.is_in(THREADS) {
        rule(
            &s.program,
            &["thread::Builder"],
            "threads start in daemon, service.rs, joining/background.rs, the hub's mod.rs, commit.rs and server, and for hooks",
        );
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
            .chain(types::repeated(&sources))
            .chain(sources.iter().flat_map(words::in_literals))
            .chain(words::in_comments(&sources))
            .chain(walls(&sources))
            .chain(circles::circles(&sources))
            .collect(),
    );
}

#[test]
fn every_dependency_says_why_it_is_there() {
    let text = read("Cargo.toml");
    let (mut section, mut before, mut found) = ("", "", Vec::new());
    for (i, line) in text.lines().enumerate() {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
        } else if section.ends_with("dependencies")
            && line.contains('=')
            && !line.starts_with(['#', ' '])
            && !before.starts_with('#')
        {
            let what = format!("{line}: no comment above it (each dependency has a reason)");
            found.push(Breach {
                path: "Cargo.toml".into(),
                line: i + 1,
                what,
            });
        }
        before = line;
    }
    report(found);
}

#[test]
fn the_changelog_has_a_heading_for_unreleased_changes() {
    assert!(
        read("CHANGELOG.md")
            .lines()
            .any(|l| l == "## Unreleased" || l.starts_with("## ") && l.ends_with(", unreleased")),
        "CHANGELOG.md: no heading \"Unreleased\" or \"VERSION, unreleased\""
    );
}

#[test]
fn nothing_in_the_repository_ends_in_spaces() {
    let mut names = vec![
        "Makefile".to_string(),
        "README.md".into(),
        "CHANGELOG.md".into(),
        "CONTRIBUTING.md".into(),
        "SECURITY.md".into(),
        ".ci/run".into(),
    ];
    names.extend(["contrib", "man"].iter().flat_map(|dir| files(dir, "")));
    let mut found = Vec::new();
    for name in names {
        for (i, _) in read(&name)
            .lines()
            .enumerate()
            .filter(|(_, l)| l.ends_with([' ', '\t', '\r']))
        {
            found.push(Breach {
                path: name.clone(),
                line: i + 1,
                what: "space at the end of the line (noise in diffs)".into(),
            });
        }
    }
    report(found);
}

#[test]
fn the_man_page_tells_every_setting_with_its_default_and_range() {
    let page = read("man/mesync.5");
    let (top, watched) = page
        .split_once("\n.Ss Under [[watch]]")
        .expect("a section about watched directories");
    let (watched, hub) = watched.split_once("\n.Ss ").expect("one more section");
    let (others, mut found) = (format!("{top}{hub}"), Vec::new());
    let mut check = |text: &str, key: &str, doc: &str, more: &[&str]| {
        let entry = text
            .split("\n.It Va ")
            .skip(1)
            .find(|e| e.lines().next() == Some(key))
            .unwrap_or("");
        let range = doc
            .rsplit_once('(')
            .map_or("", |(_, range)| range.trim_end_matches(')'));
        for wanted in more
            .iter()
            .chain([&range])
            .filter(|w| entry.is_empty() || !entry.contains(**w))
        {
            let what =
                format!("no \"{wanted}\" under \".It Va {key}\" (every setting is documented)");
            found.push(Breach {
                path: "man/mesync.5".into(),
                line: 1,
                what,
            });
        }
    };
    for s in mesync::internals::config::SETTINGS {
        let default = if s.default.is_empty() { "" } else { "default" };
        check(
            &others,
            s.key,
            s.doc,
            &[&format!(".Ev {}", s.env), default, s.default],
        );
    }
    mesync::internals::config::watch::SETTINGS
        .iter()
        .for_each(|s| check(watched, s.key, s.doc, &[s.default]));
    report(found);
}

#[test]
fn every_exit_status_is_documented() {
    // help lists the kinds themselves
    let page = read("man/mesync.1");
    for (kind, name) in mesync::internals::error::Kind::ALL {
        let status = kind.exit_status();
        assert!(
            page.contains(&format!("\n.It {status}\n")),
            "man/mesync.1: no exit status {status} ({name})"
        );
    }
}

#[test]
fn man_page_names_every_command_and_flag() {
    use mesync::internals::cli::table::{COMMANDS, Flag, GLOBAL};
    // the list entries of the page, each from its ".It" to the next one of a command
    let page = read("man/mesync.1").replace(".It Xo\n.Ic ", ".It Ic ");
    let entries: Vec<&str> = page.split(".It Ic ").skip(1).collect();
    let mut found = Vec::new();
    let mut missing = |what: String| {
        found.push(Breach {
            path: "man/mesync.1".into(),
            line: 1,
            what,
        })
    };
    for command in COMMANDS {
        let is_about = |e: &&&str| {
            e.strip_prefix(command.name)
                .is_some_and(|r| r.starts_with(['\n', ' ']))
        };
        // "hosts rebind" begins with "hosts" too: the shortest name is first
        let Some(entry) = entries.iter().find(is_about) else {
            missing(format!(
                "no \".It Ic {}\" (every command is documented)",
                command.name
            ));
            continue;
        };
        let forms = |f: &Flag| {
            [
                format!("Fl -{}", f.long),
                f.short
                    .map_or(String::from("\0"), |c| format!("Fl {c} , -{}", f.long)),
            ]
        };
        for flag in command
            .flags
            .iter()
            .filter(|f| forms(f).iter().all(|form| !entry.contains(form)))
        {
            missing(format!(
                "no \"Fl -{}\" in \".It Ic {}\" (every flag is documented)",
                flag.long, command.name
            ));
        }
    }
    for flag in GLOBAL.iter().filter(|f| {
        !page.contains(&format!(".It Fl -{}", f.long))
            && !page.contains(&format!(" , -{}\n", f.long))
    }) {
        missing(format!(
            "no \".It Fl -{}\" (every flag is documented)",
            flag.long
        ));
    }
    report(found);
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
