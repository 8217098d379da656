//! Hooks that fail or are refused: their reasons, retries, and how they are given up.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::hooks::{json, read, send, two};
use crate::support::inject;
use crate::support::world::{Machine, World, wait_for};

#[test]
fn a_hook_that_is_refused_has_failed_with_a_reason_and_runs_after_retry() {
    let (world, alpha, mut beta) = two(false);
    let hook = |beta: &Machine, kind: &str, mode: u32| {
        beta.hook(kind, &format!("cat >{kind}.got"));
        std::fs::set_permissions(
            beta.dir("hooks").join(kind),
            std::fs::Permissions::from_mode(mode),
        )
        .unwrap();
    };
    hook(&beta, "group", 0o775);
    hook(&beta, "plain", 0o644);
    hook(&beta, "target", 0o755);
    symlink("target", beta.dir("hooks").join("link")).unwrap();
    std::fs::create_dir(beta.dir("hooks").join("directory")).unwrap();
    for (kind, text) in [
        ("interpreter", "#!/bin/bsh\n"),
        ("carriage", "#!/bin/sh\r\ntrue\r\n"),
        ("nothing", "cat >nothing.got\n"),
    ] {
        hook(&beta, kind, 0o755);
        std::fs::write(beta.dir("hooks").join(kind), text).unwrap();
    }
    let kinds = [
        "group",
        "plain",
        "link",
        "directory",
        "interpreter",
        "carriage",
        "nothing",
    ];
    let ids = send(&alpha, &kinds);
    assert_eq!(beta.run(&["-q", "start", "--once"]).status.code(), Some(1));
    assert_eq!(json(&beta, &["status"])[0]["hooks_failed"], kinds.len());
    assert_eq!(beta.run(&["status"]).status.code(), Some(1));
    // listed from the records, not from the inbox
    beta.ok(&["flush", "inbox"]);
    let listed = json(&beta, &["list", "hooks"]);
    let wants = [
        "run chmod go-w ",
        "run chmod +x ",
        "it is a symbolic link",
        "it is not a regular file",
        "its interpreter is \"/bin/bsh\"",
        "run sed -i",
        "begin it with #!/bin/sh",
    ];
    for ((hook, id), wants) in listed.iter().zip(&ids).zip(wants) {
        let reason = hook["reason"].as_str().unwrap();
        assert!(
            hook["id"] == id.as_str() && hook["hook_failed"] == true && reason.contains(wants),
            "{hook}"
        );
        assert!(reason.contains("/hooks/"), "it names the file: {reason}");
    }
    // a retry that could only fail again says so, and changes nothing
    let refused = beta.run(&["retry", "--hooks", &ids[0]]);
    assert!(
        refused.status.code() == Some(1)
            && String::from_utf8_lossy(&refused.stderr).contains("run chmod go-w"),
        "{refused:?}"
    );
    beta.start();
    std::fs::remove_dir(beta.dir("hooks").join("directory")).unwrap();
    std::fs::remove_file(beta.dir("hooks").join("link")).unwrap();
    kinds.iter().for_each(|kind| hook(&beta, kind, 0o755));
    assert!(
        beta.ok(&["retry", "--hooks"])
            .contains("7 hooks to run again")
    );
    wait_for("all have run", &world, || {
        json(&beta, &["list", "hooks"]).is_empty()
    });
    for (kind, id) in kinds.iter().zip(&ids) {
        assert!(
            read(&beta, &format!("{kind}.got")).contains(id),
            "{kind} got its message"
        );
    }
}

#[test]
fn failed_hooks_are_given_up_one_by_one_or_all_and_do_not_outlive_their_programs() {
    let (world, alpha, beta) = two(true);
    beta.hook("fails", "exit 3");
    let ids = send(&alpha, &["fails", "fails", "fails"]);
    wait_for("all have failed", &world, || {
        json(&beta, &["status"])[0]["hooks_failed"] == 3
    });
    assert_eq!(json(&beta, &["flush", "hooks", &ids[1]])[0]["removed"], 1);
    assert_eq!(
        json(&beta, &["list", "hooks"])
            .iter()
            .map(|h| h["id"].as_str().unwrap())
            .collect::<Vec<_>>(),
        [&ids[0], &ids[2]]
    );
    std::fs::remove_file(beta.dir("hooks").join("fails")).unwrap();
    let status = &json(&beta, &["status"])[0];
    assert_eq!(
        (
            &status["healthy"],
            &status["hooks_failed"],
            &status["hooks_gone"]
        ),
        (&true.into(), &0.into(), &2.into())
    );
    let refused = beta.run(&["retry", "--hooks", &ids[0]]);
    assert!(
        refused.status.code() == Some(1)
            && String::from_utf8_lossy(&refused.stderr).contains("hooks/fails"),
        "{refused:?}"
    );
    // nothing is lost while the program is away
    beta.hook("fails", "cat >>got");
    assert_eq!(json(&beta, &["status"])[0]["hooks_failed"], 2);
    beta.ok(&["retry", "--hooks", &ids[0]]);
    wait_for("it ran", &world, || read(&beta, "got").contains(&ids[0]));
    assert_eq!(beta.ok(&["flush", "hooks"]), "1 failed hook given up");
    wait_for("nothing is left", &world, || {
        std::fs::read_dir(beta.dir("state/hooks")).unwrap().count() == 0
    });
    assert_eq!(beta.run(&["status"]).status.code(), Some(0));
}

#[test]
fn a_thousand_failed_hooks_are_listed_retried_and_given_up_quickly() {
    if !inject::is_available() {
        return;
    }
    let world = World::new();
    let mut beta = world.machine("beta");
    beta.hook("t", "exit 1");
    std::fs::create_dir_all(beta.dir("state/hooks")).unwrap();
    for n in 1..=1000 {
        let name = format!(
            "{n:016x}.20261121T101112_01933b5e-0000-7000-8000-{n:012}.json.t.failed-exit-1"
        );
        std::fs::write(beta.dir("state/hooks").join(name), r#"{"type":"t"}"#).unwrap();
    }
    let trace = world.dir.path().join("trace");
    let calls = "trace=fsync,fdatasync,syncfs,getdents64";
    beta.wrap = ["strace", "-f", "-qq", "-A", "-e", calls, "-o"]
        .into_iter()
        .chain(trace.to_str())
        .map(str::to_string)
        .collect();
    assert_eq!(json(&beta, &["list", "hooks"]).len(), 1000);
    beta.ok(&["retry", "--hooks", "8000-000000000007"]);
    assert!(
        beta.ok(&["retry", "--hooks"])
            .ends_with("999 hooks to run again")
    );
    for name in beta.names("state/hooks") {
        let failed = name.replace(".t.0", ".t.failed-timeout");
        std::fs::rename(
            beta.dir("state/hooks").join(&name),
            beta.dir("state/hooks").join(failed),
        )
        .unwrap();
    }
    assert_eq!(beta.ok(&["flush", "hooks"]), "1000 failed hooks given up");
    let trace = std::fs::read_to_string(trace).unwrap();
    let count = |call: &str| trace.matches(&format!("{call}(")).count();
    let (synced, listed) = (count("sync") + count("syncfs"), count("getdents64"));
    println!("{synced} syncs, {listed} calls that list a directory");
    assert!(
        synced < 20 && (5..200).contains(&listed),
        "a sync, or a list of all, for each hook:\n{trace}"
    );
    assert!(beta.names("state/hooks").is_empty());
}
