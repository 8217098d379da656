//! `mesync words`, and the completions that call it, in a real bash.

use std::fs;
use std::process::Command;

use super::sync::text;
use crate::support::world::{Machine, World, binary};

/// What bash offers for the last of these words.
fn completed(machine: &Machine, words: &[&str]) -> Vec<String> {
    let script = format!(
        "eval \"$(\"$1\" completions bash)\"; COMP_WORDS=(\"$@\"); COMP_CWORD={}; compopt() {{ :; }}; _mesync\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words.len()
    );
    let mut command = Command::new("bash");
    command
        .args(["-c", &script, "bash"])
        .arg(binary())
        .args(words);
    // set -- PROGRAM WORD…: the program is the first of them
    command.envs(machine.env.iter().cloned());
    command.env("MESYNC_BASE_DIR", &machine.base);
    let out = command.output().unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
    let mut found: Vec<String> = text(&out.stdout).lines().map(String::from).collect();
    found.retain(|word| !word.is_empty());
    found
}

#[test]
fn bash_completes_the_names_of_hosts_keys_messages_and_files() {
    let mut world = World::new();
    world.start_hub();
    let mut alpha = world.machine("alpha");
    alpha.env.push(("MESYNC_SERVER_URL".into(), world.url()));
    alpha.env.push(("MESYNC_HOST_ID".into(), "alpha".into()));
    world.machine("beta").ok(&["start", "--once"]);
    alpha.ok(&["start", "--once"]);
    let check = |words: &[&str], wants: &[&str]| {
        assert_eq!(completed(&alpha, words), wants, "{words:?}");
    };
    check(&["send", "x", "--target", "be"], &["beta"]);
    check(&["hosts", ""], &["alpha", "beta", "rebind", "remove"]);

    let file = world.dir.path().join("notes of ann.txt");
    fs::write(&file, "x").unwrap();
    let file = file.to_str().unwrap();
    alpha.ok(&["upload", file, "docs/"]);
    alpha.ok(&["upload", file, "docs/old/"]);
    alpha.ok(&["upload", file, "--name", "top"]);
    check(&["download", ""], &["docs/", "top"]);
    check(&["download", "docs/n"], &["docs/notes of ann.txt"]);
    check(&["ls", "docs/"], &["docs/notes of ann.txt", "docs/old/"]);

    let id = alpha.ok(&["send", "x"]).trim().to_string();
    check(&["show", &id[..30]], &[&id]);
    check(&["retry", ""], &[]);
    fs::write(alpha.base.join("outbox/bad.json"), "{}").unwrap();
    alpha.run(&["start", "--once"]);
    check(&["retry", "b"], &["bad.json"]);

    // an absent hub costs nothing but the names
    world.stop_hub();
    check(&["send", "x", "--target", "be"], &[]);
    check(&["list", "fai"], &["failed"]);
}

#[test]
fn the_names_of_keys_are_those_of_the_hub_of_this_machine() {
    let mut world = World::new();
    world.start_hub();
    world.hub_ok(&["key", "add", "web-1"]);
    world.hub_ok(&["key", "add", "nas"]);
    assert_eq!(world.hub_ok(&["words", "keys"]), "nas\nweb-1");
    assert_eq!(world.hub_ok(&["words", "keys", "w"]), "web-1");
    assert_eq!(world.hub_ok(&["words", "keys", "w", "--json"]), "\"web-1\"");
}
