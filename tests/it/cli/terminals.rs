//! What a person sees at a terminal: a narrow one, one that can do nothing, and the line when a directory is in sync.
//!
//! `script` of util-linux is the terminal; without it the tests that need one are skipped with a message.

use std::fs;
use std::process::Command;

use super::sync::path;
use crate::support::world::{Machine, World, wait_for};

/// What commands of a shell write to a terminal of this width; `None`: there is no `script`.
fn at_terminal(machine: &Machine, columns: u32, term: &str, commands: &str) -> Option<String> {
    let plain = machine.command(&[]);
    let mut script = Command::new("script");
    script.args(["-q", "-e", "-c"]);
    script.arg(format!("stty cols {columns}; {commands}"));
    script.arg("/dev/null").env_clear();
    let variables = plain.get_envs();
    script.envs(variables.filter_map(|(name, value)| Some((name, value?))));
    script.env("MESYNC", plain.get_program()).env("TERM", term);
    let Ok(out) = script.stdin(std::process::Stdio::null()).output() else {
        println!("SKIPPED: there is no script (util-linux)");
        return None;
    };
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{commands}: {text}");
    Some(text.replace("\r\n", "\n"))
}

#[test]
fn help_fits_a_terminal_of_forty_columns() {
    let world = World::new();
    let all = "$MESYNC help && $MESYNC help settings && for i in send sync ls key hub; do $MESYNC help $i; done";
    let Some(text) = at_terminal(&world.machine("m"), 40, "xterm", all) else {
        return;
    };
    assert!(
        text.contains("\n  ls [DIR]\n      list the files on the hub\n"),
        "{text}"
    );
    for line in text.lines() {
        // an example is one line, to be copied
        let is_example = line.starts_with("  ") && line.contains("mesync ");
        // a name is never broken
        let is_name = !line.trim_start().contains(' ');
        assert!(
            line.chars().count() <= 40 || is_example || is_name,
            "{line}"
        );
        assert_eq!(line, line.trim_end());
    }
}

#[test]
fn a_terminal_without_abilities_gets_plain_lines() {
    let mut world = World::new();
    world.start_hub();
    let machine = world.machine("m");
    let dir = world.dir.path().join("share");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("a"), "a").unwrap();
    let all = format!(
        "$MESYNC sync {0} && $MESYNC ls && $MESYNC status && $MESYNC list inbox && $MESYNC conflicts",
        path(&dir)
    );
    let Some(text) = at_terminal(&machine, 40, "dumb", &all) else {
        return;
    };
    assert!(!text.contains(['\x1b', '\r']), "{text:?}");
    for words in [
        ": in sync: 1 sent, 1 B\n",
        "  a\n",
        "inbox is empty\n",
        "no conflicts\n",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let bold = at_terminal(&machine, 40, "xterm", "$MESYNC ls").unwrap();
    assert!(bold.starts_with("\x1b[1m"), "{bold:?}");
}

#[test]
fn a_daemon_says_when_its_directories_are_in_sync() {
    let mut world = World::new();
    world.start_hub();
    for (name, command) in [("one", "daemon"), ("two", "start")] {
        let mut machine = world.machine(name);
        let dir = world.dir.path().join(format!("{name}-share"));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(name), name).unwrap();
        machine.start_with(&[command, path(&dir)]);
        let log = world.dir.path().join(format!("{name}.log"));
        wait_for("the directory is in sync", &world, || {
            let text = fs::read_to_string(&log).unwrap();
            // nothing asked for more words
            text.contains(" info in sync files=") && text.contains("-share")
        });
        assert_eq!(machine.stop(), Some(0));
    }
}
