//! Rules about what a file may use: which module knows which, what decides only, and what has one home.

use crate::source::{Breach, Source, line_of, used_from};

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
    "src/files/debounce/",
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
    "src/hub/commit/mod.rs",
    "src/hub/peers.rs",
    "src/hub/server/",
    "src/messages/hooks/",
    "src/transfer/concurrent.rs",
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
    ("src/database/", UPPER, "the bottom uses nothing above it"),
    ("src/logger/", UPPER, "the bottom uses nothing above it"),
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

/// Places in these lists that name no file, and modules that do not exist: such a rule holds nothing.
pub fn stale(sources: &[Source]) -> Vec<Breach> {
    let is_there = |place: &str| sources.iter().any(|s| s.is_in(&[place]));
    let places = [PURE, THREADS, UNSAFE].into_iter().flatten().copied();
    let places = places.chain(LAYERS.iter().map(|(place, _, _)| *place));
    let modules = LAYERS.iter().flat_map(|(_, unknown, _)| unknown.iter());
    let missing = places
        .filter(|place| !is_there(place))
        .map(str::to_string)
        .chain(
            modules
                .map(|module| format!("src/{module}"))
                .filter(|m| !is_there(&format!("{m}.rs")) && !is_there(&format!("{m}/"))),
        );
    missing
        .map(|place| Breach {
            path: "tests/tidy/layers.rs".into(),
            line: 1,
            what: format!("{place} (no such file)"),
        })
        .collect()
}

pub fn layers(s: &Source, all: &mut Vec<Breach>) {
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

pub fn places(s: &Source, all: &mut Vec<Breach>) {
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
            "threads start in daemon, service.rs, joining/background.rs, the hub's mod.rs, commit.rs and server, for hooks, and in transfer/concurrent.rs",
        );
    }
}
