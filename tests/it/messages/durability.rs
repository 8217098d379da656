//! The order of syncs and renames, as the system sees it: what survives a power cut is what was synced before.
//!
//! Kills are tried in `crash`; a power cut cannot be made in a test, but the order that it relies on can be read.

use std::process::{Command, Stdio};

use crate::support::world::{Machine, World};

/// What a command does to names and syncs: `fsync PATH`, `rename FROM TO`. `None`, with a word, without strace.
fn traced(machine: &Machine, status: i32, args: &[&str]) -> Option<Vec<String>> {
    traced_with(machine, status, args, Stdio::null())
}

fn traced_with(machine: &Machine, status: i32, args: &[&str], stdin: Stdio) -> Option<Vec<String>> {
    let out = machine.base.with_extension("trace");
    let plain = machine.command(args);
    let mut command = Command::new("strace");
    let calls =
        "trace=fsync,fdatasync,syncfs,?rename,?renameat,renameat2,?link,linkat,?unlink,unlinkat";
    command
        .args(["-f", "-qq", "-y", "-s", "4096", "-o"])
        .arg(&out)
        .args(["-e", calls]);
    command
        .arg(plain.get_program())
        .args(plain.get_args())
        .env_clear();
    command.envs(
        plain
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    match command.stdin(stdin).output() {
        Ok(output) => assert_eq!(
            output.status.code(),
            Some(status),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(e) => {
            assert!(std::env::var_os("CI").is_none(), "install strace: {e}");
            println!("SKIPPED: there is no strace");
            return None;
        }
    }
    let base = format!("{}/", machine.base.display());
    let short = |text: &str| text.replace(&base, "");
    let read = |line: &str| {
        let (call, rest) = line.split_once('(')?;
        let call = call
            .rsplit(' ')
            .next()?
            .trim_end_matches("at2")
            .trim_end_matches("at");
        let rest = rest
            .rsplit_once(')')
            .filter(|(_, result)| result.contains("= 0"))?
            .0;
        // `3</path>` of a descriptor, `"/path"` of a name
        let names: Vec<String> = if rest.contains('"') {
            rest.split('"').skip(1).step_by(2).map(short).collect()
        } else {
            vec![short(rest.split_once('<')?.1.trim_end_matches('>'))]
        };
        Some(format!("{call} {}", names.join(" ")))
    };
    Some(
        std::fs::read_to_string(out)
            .unwrap()
            .lines()
            .filter_map(read)
            .collect(),
    )
}

/// Each of `wants` happens, in this order; `*` matches anything.
#[track_caller]
fn in_order(trace: &[String], wants: &[&str]) {
    let fits = |line: &str, want: &str| {
        let parts: Vec<&str> = want.split('*').collect();
        let mut rest = line;
        line.starts_with(parts[0])
            && line.ends_with(parts[parts.len() - 1])
            && parts.iter().all(|part| {
                rest.find(part)
                    .map(|at| rest = &rest[at + part.len()..])
                    .is_some()
            })
    };
    let mut lines = trace.iter();
    for want in wants {
        assert!(
            lines.any(|line| fits(line, want)),
            "{want:?} does not come where it should in {trace:#?}"
        );
    }
}

fn syncs(trace: &[String], of: &str) -> usize {
    trace
        .iter()
        .filter(|l| l.contains("sync") && l.contains(of))
        .count()
}

#[test]
fn send_syncs_the_file_before_its_name_and_the_name_before_it_says_so() {
    let world = World::new();
    let alpha = world.machine("alpha");
    alpha.ok(&["send", "first"]);
    let Some(trace) = traced(&alpha, 0, &["send", "x"]) else {
        return;
    };
    in_order(
        &trace,
        &[
            "fsync outbox/.*.json.tmp",
            "rename outbox/.*.json.tmp outbox/*.json",
            "fsync outbox",
        ],
    );
    assert_eq!(syncs(&trace, ""), 2, "{trace:#?}");
}

#[test]
fn a_thousand_messages_of_a_batch_share_two_syncs() {
    let world = World::new();
    let alpha = world.machine("alpha");
    alpha.ok(&["send", "first"]);
    let lines = world.dir.path().join("lines");
    let text: String = (0..1000)
        .map(|n| format!("{{\"type\":\"x\",\"payload\":{n}}}\n"))
        .collect();
    std::fs::write(&lines, text).unwrap();
    let input = Stdio::from(std::fs::File::open(&lines).unwrap());
    let Some(trace) = traced_with(&alpha, 0, &["send", "--batch"], input) else {
        return;
    };
    assert_eq!(alpha.names("outbox").len(), 1001);
    in_order(
        &trace,
        &[
            "syncfs outbox",
            "rename outbox/.*.json.tmp outbox/*.json",
            "fsync outbox",
        ],
    );
    assert_eq!(syncs(&trace, ""), 2, "{trace:#?}");
    let is_name = |line: &&String| line.starts_with("rename");
    assert_eq!(trace.iter().filter(is_name).count(), 1000);
    let last = trace.iter().rposition(|line| line.starts_with("rename"));
    assert!(last < trace.iter().rposition(|line| line == "fsync outbox"));
}

#[test]
fn a_dropped_file_has_its_lasting_name_on_the_disk_before_it_is_sent() {
    let mut world = World::new();
    world.start_hub();
    let alpha = world.machine("alpha");
    alpha.ok(&["start", "--once"]);
    alpha.drop_file("a.json", r#"{"type":"x"}"#);
    let Some(trace) = traced(&alpha, 0, &["start", "--once"]) else {
        return;
    };
    in_order(
        &trace,
        &[
            "fsync outbox/a.json",
            "rename outbox/a.json outbox/*.json",
            "fsync outbox",
            "rename outbox/*.json sent/*.json",
        ],
    );
    assert_eq!(syncs(&trace, "sent"), 0, "{trace:#?}");

    alpha.drop_file("bad.json", "{}");
    let Some(trace) = traced(&alpha, 1, &["start", "--once"]) else {
        return;
    };
    let way = [
        "fsync failed/.bad.json.reason.tmp",
        "rename failed/.bad.json.reason.tmp failed/bad.json.reason",
        "link outbox/bad.json failed/bad.json",
        "fsync failed",
        "unlink outbox/bad.json",
    ];
    in_order(&trace, &way);
}

#[test]
fn a_received_message_is_synced_then_logged_then_named() {
    let mut world = World::new();
    world.start_hub();
    let (alpha, beta) = (world.machine("alpha"), world.machine("beta"));
    beta.ok(&["start", "--once"]);
    beta.hook("hooked", "true");
    alpha.ok(&["send", "hooked"]);
    alpha.ok(&["start", "--once"]);
    let Some(trace) = traced(&beta, 0, &["start", "--once"]) else {
        return;
    };
    let way = [
        "fsync inbox/.*.json.tmp",
        "fsync state/hooks/*.json.hooked.0",
        "fsync inbox",
        "fsync state/hooks",
        "fdatasync state/seen/*",
        "fsync state/seen",
        "rename inbox/.*.json.tmp inbox/*.json",
        "rename state/hooks/*.hooked.0 state/hooks/*.hooked.1",
        "fsync state/hooks",
        "unlink state/hooks/*.hooked.1",
    ];
    in_order(&trace, &way);

    for _ in 0..20 {
        alpha.ok(&["send", "many"]);
    }
    alpha.ok(&["start", "--once"]);
    let Some(trace) = traced(&beta, 0, &["start", "--once"]) else {
        return;
    };
    in_order(
        &trace,
        &[
            "syncfs inbox",
            "fdatasync state/seen/*",
            "rename inbox/.*.json.tmp inbox/*.json",
        ],
    );
    assert_eq!(syncs(&trace, "inbox"), 1, "{trace:#?}");
}
