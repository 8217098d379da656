//! The program as a person and a script meet it: help, exit statuses, output that cannot be written, odd names, settings.
//!
//! No hub and no daemon here: only what works without them.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use crate::support::program::{Mesync, ran};
use mesync::internals::cli::table::{COMMANDS, SHELLS};

#[test]
fn every_command_has_help_made_from_the_table() {
    let m = Mesync::new();
    // bad settings do not keep anybody from reading
    m.put("config.toml", "nonsense");
    let overview = m.ok(["help"]);
    assert_eq!(overview, m.ok(["--help"]));
    for command in COMMANDS {
        let words: Vec<&str> = command.name.split(' ').collect();
        let help = m.ok(["help"].iter().chain(&words));
        assert!(
            overview.contains(command.name) && overview.contains(command.doc),
            "{}",
            command.name
        );
        assert!(
            help.contains(command.doc)
                && command
                    .flags
                    .iter()
                    .all(|f| help.contains(&format!("--{}", f.long))),
            "{help}"
        );
        assert!(
            help.contains("--json")
                && command
                    .examples
                    .iter()
                    .all(|(example, _)| help.contains(example)),
            "{help}"
        );
        assert_eq!(help, m.ok(words.iter().chain(&["--help"])));
        assert_eq!(help, m.ok(["-h"].iter().chain(&words)));
        for shell in SHELLS {
            let completions = m.ok(["completions", shell]);
            assert!(
                words.iter().all(|w| completions.contains(w)),
                "{shell} {}",
                command.name
            );
            assert!(
                command.flags.iter().all(|f| completions.contains(f.long)),
                "{shell} {}",
                command.name
            );
        }
    }
    // every table of settings, with every key, its default and its line of documentation
    let settings = m.ok(["help", "settings"]);
    let words = settings.split_whitespace().collect::<Vec<_>>().join(" ");
    let equals = |default: &str| {
        if default.is_empty() {
            String::new()
        } else {
            format!(" = {default}")
        }
    };
    for s in mesync::internals::config::SETTINGS {
        let name = if s.section == mesync::internals::config::Section::None {
            String::new()
        } else {
            format!("{}, ", s.key)
        };
        let wanted = format!("{name}{}{} {}", s.env, equals(s.default), s.doc);
        assert!(words.contains(&wanted), "{wanted}\n{settings}");
    }
    let (_, watch) = words
        .split_once(" [[watch]]: ")
        .expect("a list of the settings of directories");
    for s in mesync::internals::config::watch::SETTINGS {
        let wanted = format!("{}{} {}", s.key, equals(s.default), s.doc);
        assert!(watch.contains(&wanted), "{wanted}\n{settings}");
    }
    assert_eq!(
        m.ok(["--version"]),
        concat!("mesync ", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn completions_are_read_by_their_shells() {
    let m = Mesync::new();
    for shell in SHELLS {
        let file = m.put(shell, m.ok(["completions", shell]));
        match Command::new(shell).arg("-n").arg(&file).output() {
            Ok(output) => assert!(
                output.status.success() && output.stderr.is_empty(),
                "{shell}: {output:?}"
            ),
            Err(e) => say(&format!("SKIPPED for {shell}: {e}")),
        }
    }
}

#[test]
fn mistakes_are_usage_errors_that_say_where_to_read() {
    let m = Mesync::new();
    m.run([] as [&str; 0]).check(2, "usage: mesync COMMAND");
    m.run(["lsit"]).check(
        2,
        "mesync: there is no command \"lsit\" (did you mean \"list\"? see mesync help)",
    );
    m.run(["list", "outbox", "--jsn"]).check(
        2,
        "list has no flag --jsn (did you mean --json? see mesync help list)",
    );
    m.run(["send", "x", "--ttl"])
        .check(2, "--ttl needs a value");
    m.run(["serve", "--listen", "x"])
        .check(2, "bad value for --listen: must be an address and a port");
    m.run(["help", "lsit"]).check(2, "did you mean \"list\"");
    // only the usage is written to the terminal: the output for a script is empty
    assert_eq!(m.run(["lsit"]).out, "");
    m.run([
        OsString::from("show"),
        OsString::from_vec(b"\xff\n".to_vec()),
    ])
    .check(1, "there is no message \u{fffd}\\n (at least");
    m.run([OsString::from("send"), OsString::from_vec(b"\xff".to_vec())])
        .check(2, "\u{fffd} is not UTF-8");
}

#[test]
fn a_link_named_s3ec_is_the_same_program() {
    let m = Mesync::new();
    let link = m.home().join("s3ec");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_mesync"), &link).unwrap();
    assert_eq!(
        ran(Command::new(link).arg("help")).out.trim_end(),
        m.ok(["help"])
    );
}

#[test]
fn a_closed_pipe_is_success_and_stops_no_work() {
    let m = Mesync::new();
    let closed = |args: &[&str]| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let child = m
            .command(args)
            .stdout(writer)
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.wait_with_output().unwrap()
    };
    for _ in 0..3 {
        m.put(
            format!("failed/20200101T000000_{}.json", uuid::Uuid::new_v4()),
            "{\"type\":\"x\"}",
        );
    }
    for args in [
        &["help"][..],
        &["list", "failed"],
        &["list", "failed", "--json"],
        &["retry"],
    ] {
        let output = closed(args);
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{args:?}: {output:?}"
        );
    }
    assert_eq!(m.names("outbox").len(), 3);
}

#[test]
fn output_that_does_not_fit_is_an_error_and_no_panic() {
    let m = Mesync::new();
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    for args in [
        &["help"][..],
        &["--version"],
        &["send", "x"],
        &["list", "outbox"],
    ] {
        ran(m.command(args).stdout(full())).check(
            75,
            "cannot write to standard output: no space left on device",
        );
    }
    // with nowhere to complain to, the status remains
    for args in [&["help"][..], &["lsit"], &[]] {
        let status = m
            .command(args)
            .stdout(full())
            .stderr(full())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(if args == ["help"] { 75 } else { 2 }));
    }
    // beyond the limit of file sizes the kernel sends SIGXFSZ
    match Command::new("prlimit").arg("--version").output() {
        Ok(_) => {
            let out = File::create(m.home().join("out")).unwrap();
            let binary = env!("CARGO_BIN_EXE_mesync");
            ran(Command::new("prlimit")
                .args(["--fsize=0", binary, "help"])
                .stdout(out))
            .check(74, "file too large");
        }
        Err(e) => say(&format!("SKIPPED the limit of file sizes: {e}")),
    }
}

#[test]
fn a_read_only_directory_cannot_be_written_to() {
    let m = Mesync::new();
    m.ok(["send", "x"]);
    let outbox = m.base().join("outbox");
    let chattr = |flag: &str| {
        Command::new("chattr")
            .arg(flag)
            .arg(&outbox)
            .output()
            .is_ok_and(|o| o.status.success())
    };
    std::fs::set_permissions(&outbox, std::fs::Permissions::from_mode(0o500)).unwrap();
    let root = std::fs::metadata(m.home()).unwrap().uid() == 0;
    if root && !chattr("+i") {
        return say("SKIPPED: nothing is read-only for root here, and chattr does not work");
    }
    let refused = m.run(["send", "x"]);
    let listed = m.run(["list", "outbox"]);
    if root {
        assert!(chattr("-i"));
    }
    std::fs::set_permissions(&outbox, std::fs::Permissions::from_mode(0o700)).unwrap();
    refused.check(73, "cannot write");
    listed.check(0, "");
    assert_eq!(m.names("outbox").len(), 1, "nothing is left behind");
    ran(m
        .command(["send", "x"])
        .env("MESYNC_BASE_DIR", "/proc/mesync"))
    .check(73, "cannot create directory");
}

#[test]
fn bad_settings_name_the_variable_or_the_line() {
    let m = Mesync::new();
    ran(m
        .command(["list", "outbox"])
        .env("MESYNC_POLL_INTERVAL", "soon"))
    .check(78, "bad value in MESYNC_POLL_INTERVAL: must be");
    ran(m.command(["list", "outbox"]).env("MESYNC_HOST_ID", "a b"))
        .check(78, "bad value in MESYNC_HOST_ID");
    m.put("config.toml", "\n\npoll_interval = 0\n");
    m.run(["list", "outbox"]).check(
        78,
        "config.toml, line 3: poll_interval: must be a whole number",
    );
    m.run(["help"]).check(0, "");
}

#[test]
fn a_home_is_needed_only_without_a_base_directory() {
    let m = Mesync::new();
    ran(m
        .command(["list", "outbox"])
        .env_remove("MESYNC_BASE_DIR")
        .env("HOME", "relative"))
    .check(78, "set MESYNC_BASE_DIR");
    ran(m.command(["list", "outbox"]).env("HOME", "relative")).check(0, "");
    ran(m.command(["send", "x"]).env_remove("MESYNC_BASE_DIR")).check(0, "");
    assert!(m.home().join(".daemon/outbox").is_dir());
    ran(m.command(["send", "x"]).env_remove("HOME")).check(0, "");
}

#[test]
fn under_the_journal_each_line_has_its_priority() {
    let m = Mesync::new();
    let path = m.home().join("log");
    let log = File::create(&path).unwrap();
    let meta = log.metadata().unwrap();
    let stream = format!("{}:{}", meta.dev(), meta.ino());
    m.command(["lsit\x1b[31m\n"])
        .env("JOURNAL_STREAM", stream)
        .stderr(log)
        .status()
        .unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(
        text.starts_with("<3>mesync: there is no command \"lsit\\u{1b}[31m\\n\"")
            && text.lines().count() == 1,
        "{text}"
    );
    // inherited by something that writes elsewhere
    ran(m.command(["lsit"]).env("JOURNAL_STREAM", "1:1")).check(2, "mesync: there is no");
    assert!(
        ran(m.command(["lsit"]).env("JOURNAL_STREAM", "1:1"))
            .err
            .starts_with("mesync:")
    );
}

/// A test that could not be made must be seen.
fn say(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}
