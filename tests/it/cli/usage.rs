//! The program as a person and a script meet it: help, exit statuses, output that cannot be written, odd names, settings.
//!
//! No hub and no daemon here: only what works without them.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use crate::support::program::{Mesync, ran};
use mesync::cli::table::{COMMANDS, SHELLS};

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
    for s in mesync::config::SETTINGS {
        let name = if s.section == mesync::config::Section::None {
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
    for s in mesync::config::watch::SETTINGS {
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
    // only the usage goes to a terminal: what a script reads is empty
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
fn send_prints_the_id_and_keeps_the_payload_letter_for_letter() {
    let m = Mesync::new();
    let payload = "{\"n\": 12345678901234567890.000001, \"b\": 1, \"a\": \"\\u00e9\"}";
    let id = m.ok([
        "send",
        "task.event",
        "--payload",
        payload,
        "--target",
        "Web-1",
        "--priority=high",
        "--ttl",
        "60",
    ]);
    let names = m.names("outbox");
    assert!(
        names.len() == 1 && names[0].ends_with(&format!("_{id}.json")),
        "{names:?}"
    );
    let text = std::fs::read_to_string(m.base().join("outbox").join(&names[0])).unwrap();
    assert!(
        text.contains(payload)
            && text.contains("\"source\":\"machine-1\",\"target\":\"web-1\",\"priority\":\"high\""),
        "{text}"
    );
    let mode = |path: &str| std::fs::metadata(m.base().join(path)).unwrap().mode() & 0o777;
    assert_eq!(
        (
            mode("."),
            mode("outbox"),
            mode(&format!("outbox/{}", names[0]))
        ),
        (0o700, 0o700, 0o600)
    );

    assert_eq!(
        m.feed(["send", "x", "--payload-file", "-"], b"[1,\n2]\n")
            .status,
        0
    );
    let file = m.put("payload", "7");
    assert_eq!(
        m.ok([
            "send".as_ref(),
            "x".as_ref(),
            "--payload-file".as_ref(),
            file.as_os_str()
        ])
        .len(),
        36
    );
    assert_eq!(m.ok(["send", "x"]).len(), 36);

    m.run(["send", "x", "--payload", "{\n\"a\":}"]).check(
        2,
        "--payload is not JSON: expected value at line 2 column 5",
    );
    m.run(["send", "x", "--payload", "hello"])
        .check(2, "a text needs double quotes of its own");
    m.run(["send", "x", "--payload", "1", "--payload-file", "-"])
        .check(2, "exclude each other");
    m.run(["send", "x", "--payload-file", "/nonexistent"])
        .check(74, "cannot read /nonexistent: no such file");
    m.feed(["send", "x", "--payload-file", "-"], b"\"a\n\xff\"")
        .check(2, "standard input is not UTF-8 at line 2 column 1");
    m.feed(["send", "x", "--payload-file", "-"], &[b'1'; 300_000])
        .check(2, "has more than 262144 bytes (send a reference");
    m.feed(["send", "x", "--payload-file", "-"], &[b'1'; 262_100])
        .check(2, "a message may have 262144");
    m.run(["send", "../x"])
        .check(2, "\"type\" must be 1 to 64 letters");
    m.run(["send", "mesync.held"])
        .check(2, "made by mesync itself");
    m.run(["send", "x", "--target", "a b"])
        .check(2, "bad value for --target: a host name is");
    m.run(["send", "x", "--ttl", "0"]).check(
        2,
        "\"ttl\" must be a whole number of seconds from 1 to 604800",
    );
    m.run(["send", "x", "--ttl", "soon"])
        .check(2, "bad value for --ttl");
    assert_eq!(m.names("outbox").len(), 4);
}

#[test]
fn files_are_named_in_a_way_that_can_be_understood() {
    let m = Mesync::new();
    m.run(["upload"])
        .check(2, "upload needs FILE (see mesync help upload)");
    m.run(["rm"]).check(2, "rm needs ID|PATH");
    m.run(["download", "a", "b"])
        .check(2, "download does not take \"b\"");
    m.run(["upload", "a", "b", "--name", "c"])
        .check(2, "--name is for one file");
    m.run(["upload", "a", "--path", "../b"])
        .check(2, "bad value for --path: the name leads elsewhere");
    m.run(["ls", "--limit", "some"])
        .check(2, "bad value for --limit: not a whole number");
    m.run(["ls", "--all", "--limit", "1"])
        .check(2, "exclude each other");
    m.run(["restore", "a", "--rev", "x"])
        .check(2, "bad value for --rev");
    m.run(["events", "--since", "soon"])
        .check(2, "neither a time such as");
    m.run(["login", "--api-key", "short"])
        .check(2, "cannot use the key: a key is 8 to 512");
    m.run(["login", "--api-key", "k", "--api-key-file", "f"])
        .check(2, "exclude each other");
    ran(m
        .command(["login", "--api-key", "a-long-enough-key"])
        .env_remove("HOME"))
    .check(78, "set HOME or XDG_CONFIG_HOME");
    // what one cannot read is no reason for messages to stop
    let login = m.home().join(".config/s3ec/config.toml");
    std::fs::create_dir_all(login.parent().unwrap()).unwrap();
    std::fs::write(&login, "nonsense").unwrap();
    m.run(["ls"])
        .check(78, "line 1 is not TOML (mesync login --server URL)");
    m.run(["send", "x"]).check(0, "");
}

#[test]
fn a_queue_is_a_table_or_one_object_a_line() {
    let m = Mesync::new();
    assert_eq!(m.ok(["list", "inbox"]), "");
    let id = m.ok(["send", "x"]);
    let table = m.ok(["list", "outbox"]);
    assert!(
        table.starts_with("TIME ") && table.lines().count() == 2 && table.ends_with(&id),
        "{table}"
    );
    assert!(
        table.contains(" 167 B ") && m.ok(["list", "outbox", "--bytes"]).contains(" 167 "),
        "{table}"
    );

    let name = "20261121T103000_01a20036-fe28-7b4d-af6f-5b397f1b51b4.json";
    m.put(
        format!("inbox/{name}"),
        "{\"type\":\"task.event\",\n\"source\":\"web-1\",\"payload\":[1,\n2.0]}",
    );
    m.put(format!("state/hooks/{name}.hello.failed"), "");
    m.put("inbox/odd", "{");
    let json = m.run(["list", "inbox", "--json"]).json();
    let keys = [
        "error",
        "file",
        "hook_failed",
        "id",
        "priority",
        "queue",
        "reason",
        "size",
        "source",
        "target",
        "time",
        "type",
    ];
    assert!(
        json.iter().all(|o| o.as_object().unwrap().keys().eq(keys)),
        "{json:?}"
    );
    assert_eq!(
        (&json[0]["type"], &json[0]["time"], &json[0]["hook_failed"]),
        (
            &"task.event".into(),
            &"2026-11-21T10:30:00.000Z".into(),
            &true.into()
        )
    );
    assert!(
        json[1]["error"]
            .as_str()
            .unwrap()
            .starts_with("it is not JSON"),
        "{json:?}"
    );
    assert!(
        m.ok(["list", "inbox"])
            .lines()
            .nth(1)
            .unwrap()
            .ends_with("51b4  hook failed")
    );

    let shown = m.run(["show", "51b4", "--json"]);
    assert!(
        shown.json().len() == 1
            && shown
                .out
                .contains(r#""message":{"type":"task.event","source":"web-1","payload":[1,2.0]}"#),
        "{shown:?}"
    );
    assert!(
        m.ok(["show", "51b4"])
            .ends_with("{\n  \"type\": \"task.event\",\n  \"source\": \"web-1\",\n  \"payload\": [\n    1,\n    2.0\n  ]\n}")
    );
    assert!(m.ok(["show", "odd"]).ends_with("\n\n{"));
    assert_eq!(
        m.run(["send", "x", "--json"]).json()[0]["id"]
            .as_str()
            .map(str::len),
        Some(36)
    );

    // of a version that recorded neither the order nor the reason
    let hooks = m.run(["list", "hooks", "--json"]).json();
    let keys = [
        "file",
        "hook_failed",
        "id",
        "priority",
        "queue",
        "reason",
        "runs",
        "size",
        "source",
        "time",
        "type",
    ];
    assert!(
        hooks.len() == 1 && hooks[0].as_object().unwrap().keys().eq(keys),
        "{hooks:?}"
    );
    assert_eq!(
        (&hooks[0]["type"], &hooks[0]["reason"]),
        (
            &"hello".into(),
            &"it failed; the hook is gone: mesync flush hooks".into()
        )
    );
    m.run(["retry", "--hooks", "51b4"]).check(
        1,
        "hooks/hello (put it there, or give the hook up: mesync flush hooks)",
    );
    let hook = m.put("hooks/hello", "#!/bin/sh\n");
    std::fs::set_permissions(hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert!(
        m.ok(["list", "hooks"])
            .lines()
            .nth(1)
            .unwrap()
            .ends_with("51b4  failed: it failed")
    );
    m.run(["flush", "sent", "51b4"])
        .check(2, "an ID can be given for hooks only");
    m.run(["flush", "hooks", "0000"]).check(
        1,
        "there is no failed hook for a message 0000 (see mesync list hooks)",
    );
    let json = m.run(["retry", "--hooks", "51b4", "--json"]).json();
    assert_eq!(
        (json[0]["done"].as_bool(), m.names("state/hooks")),
        (Some(true), vec![format!("{name}.hello.0")])
    );
    m.run(["retry", "--hooks", "51b4"])
        .check(1, "there is no failed hook for a message 51b4");
    assert_eq!(m.run(["flush", "inbox", "--json"]).json()[0]["removed"], 2);
    m.run(["flush", "outbox"]).check(2, "they would be lost");
    assert_eq!(m.names("outbox").len(), 2);
}

#[test]
fn failed_messages_are_retried_one_by_one_or_all() {
    let m = Mesync::new();
    for (i, content) in ["{\"type\":\"x\"}", "{\"type\":\"y\"}", "{}"]
        .iter()
        .enumerate()
    {
        let name = format!("failed/20200101T000000_01a20036-fe28-7b4d-af6f-5b397f1b000{i}.json");
        m.put(&name, content);
        m.put(format!("{name}.reason"), "hub said no\n");
    }
    let table = m.ok(["list", "failed"]);
    assert!(
        table.lines().count() == 4 && table.lines().skip(1).all(|l| l.ends_with("hub said no")),
        "{table}"
    );
    assert_eq!(
        m.ok(["retry", "0001"]),
        "01a20036-fe28-7b4d-af6f-5b397f1b0001 back in the outbox\n1 message back in the outbox"
    );
    m.run(["retry", "0001"])
        .check(1, "it is in outbox, not in failed");
    let all = m.run(["retry"]);
    all.check(
        1,
        "mesync: cannot retry 01a20036-fe28-7b4d-af6f-5b397f1b0002: it has no \"type\"",
    );
    assert!(
        all.out.ends_with("1 message back in the outbox\n"),
        "{all:?}"
    );
    assert_eq!((m.names("failed").len(), m.names("outbox").len()), (2, 2));
    assert_eq!(m.ok(["flush", "failed"]), "1 message removed from failed");
    assert_eq!(m.names("failed").len(), 0);
    assert_eq!(m.ok(["retry"]), "");
}

#[test]
fn odd_names_are_shown_escaped_and_can_be_named() {
    let m = Mesync::new();
    let long = "n".repeat(255);
    let names = [
        &b"a\nb"[..],
        b"quo\"te's",
        b"\xff\xfe",
        b"-dash",
        b"--json",
        b"\x1b[31mred",
        long.as_bytes(),
    ];
    for name in names {
        m.put("failed/x", "{\"type\":\"x\"");
        let to = m
            .base()
            .join("failed")
            .join(OsString::from_vec(name.to_vec()));
        std::fs::copy(m.base().join("failed/x"), to).unwrap();
    }
    std::fs::remove_file(m.base().join("failed/x")).unwrap();
    let table = m.ok(["list", "failed"]);
    assert_eq!(table.lines().count(), 1 + names.len(), "{table}");
    for shown in [
        "a\\nb",
        "quo\\\"te\\'s",
        "\u{fffd}\u{fffd}",
        "-dash",
        "\\u{1b}[31mred",
        &long,
    ] {
        assert!(table.contains(shown), "{shown}: {table}");
        assert!(m.ok(["show", "--", shown]).ends_with("{\"type\":\"x\""));
    }
    assert_eq!(
        m.run(["list", "failed", "--json"]).json().len(),
        names.len()
    );
    for name in names {
        let name = OsString::from_vec(name.to_vec());
        m.run([OsString::from("retry"), "--".into(), name])
            .check(1, "it is not JSON");
    }
    assert_eq!(m.ok(["flush", "failed"]), "7 messages removed from failed");
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
            74,
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
        assert_eq!(status.code(), Some(if args == ["help"] { 74 } else { 2 }));
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
fn a_home_is_needed_only_if_nobody_names_a_base_directory() {
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
