//! Root works in directories of other users: their client and their hub can read all that root has made there.
//!
//! Only root can try this; elsewhere the tests say so and end.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use crate::support::world::{self, Machine, World, wait_for};

/// A user that nothing else has.
const USER: u32 = 1500;

/// A world whose hub runs as another user, and a machine whose empty base directory is that user's.
fn of_another_user() -> Option<(World, Machine)> {
    let tool = Command::new("setpriv").arg("--version").output().is_ok();
    if !rustix::process::geteuid().is_root() || !tool {
        println!("skipped: it needs root and setpriv");
        return None;
    }
    let mut world = World::new();
    chown(world.dir.path(), Some(USER), Some(USER)).unwrap();
    std::fs::set_permissions(world.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    world.wrap = as_user();
    let binary = world::binary();
    let reachable = Command::new("setpriv")
        .args(&as_user()[1..])
        .arg(&binary)
        .arg("--version")
        .output()
        .unwrap();
    if !reachable.status.success() {
        println!("skipped: user {USER} cannot run {}", binary.display());
        return None;
    }
    world.start_hub();
    let machine = world.machine("m");
    std::fs::create_dir(&machine.base).unwrap();
    chown(&machine.base, Some(USER), Some(USER)).unwrap();
    Some((world, machine))
}

fn as_user() -> Vec<String> {
    as_this_user(USER)
}

fn as_this_user(user: u32) -> Vec<String> {
    let id = format!("--reuid={user}");
    ["setpriv", &id, &format!("--regid={user}"), "--clear-groups"]
        .map(String::from)
        .to_vec()
}

/// What in a directory is not that user's.
fn foreign(dir: &Path) -> Vec<String> {
    let mut foreign = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let meta = entry.path().symlink_metadata().unwrap();
        if (meta.uid(), meta.gid()) != (USER, USER) {
            foreign.push(entry.path().display().to_string());
        }
        if meta.is_dir() {
            foreign.extend(self::foreign(&entry.path()));
        }
    }
    foreign
}

fn start_as_user(machine: &mut Machine) {
    machine.wrap = as_user();
    machine.start();
    machine.wrap.clear();
}

#[test]
fn messages_that_root_sends_for_another_user_are_sent_by_that_users_client() {
    let Some((world, mut m)) = of_another_user() else {
        return;
    };
    // root makes the directories, too
    m.ok(&["send", "first", "--target", "m"]);
    assert_eq!(foreign(&m.base), [""; 0]);
    start_as_user(&mut m);
    wait_for("the first arrives", &world, || m.names("inbox").len() == 1);
    m.ok(&["send", "second", "--target", "m"]);
    wait_for("the second arrives", &world, || m.names("inbox").len() == 2);
    m.ok(&["flush", "inbox"]);
    assert_eq!((m.names("inbox").len(), foreign(&m.base)), (0, vec![]));

    // to the outbox by root's hand: it cannot be read, and is out of the way
    let closed = m.base.join("outbox/closed.json");
    let hidden = m.base.join("outbox/.closed.tmp");
    std::fs::write(&hidden, "{\"type\":\"x\",\"target\":\"m\"}").unwrap();
    std::fs::set_permissions(&hidden, PermissionsExt::from_mode(0o000)).unwrap();
    std::fs::rename(&hidden, &closed).unwrap();
    wait_for("it is in failed/ with its reason", &world, || {
        m.names("failed").contains(&"closed.json".to_string()) && !closed.exists()
    });
    let out = m.run(&["status"]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    assert!(
        m.ok(&["list", "failed"])
            .contains("it cannot be read: permission denied"),
        "{}",
        m.ok(&["list", "failed"])
    );
    // root corrects it and puts it back
    let failed = m.base.join("failed/closed.json");
    chown(&failed, Some(USER), Some(USER)).unwrap();
    std::fs::set_permissions(&failed, PermissionsExt::from_mode(0o600)).unwrap();
    m.ok(&["retry", "closed.json"]);
    wait_for("it arrives", &world, || {
        m.messages("inbox")
            .iter()
            .any(|message| message["type"] == "x")
    });
    assert_eq!((m.stop(), foreign(&m.base)), (Some(0), vec![]));
    assert_eq!(m.run(&["status"]).status.code(), Some(0));
}

#[test]
fn two_users_of_one_machine_have_a_client_each() {
    const OTHER: u32 = USER + 1;
    let Some((world, mut first)) = of_another_user() else {
        return;
    };
    start_as_user(&mut first);
    let mut second = world.machine("second");
    std::fs::create_dir(&second.base).unwrap();
    chown(&second.base, Some(OTHER), Some(OTHER)).unwrap();
    second.wrap = as_this_user(OTHER);

    // the same name, as each has from the machine: the hub tells them apart, and what to do
    wait_for("the first is known", &world, || {
        second.ok(&["hosts"]).contains("m ")
    });
    second.name = "m".into();
    let refused = second.run(&["start", "--once"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(77), "{said}");
    assert!(
        said.contains("another machine acts under the name \"m\""),
        "{said}"
    );
    assert!(said.contains("MESYNC_HOST_ID"), "{said}");

    // names of their own: messages and files
    second.name = "second".into();
    second.start();
    first.wrap = as_user();
    first.ok(&["send", "hello", "--target", "second"]);
    wait_for("it arrives", &world, || second.names("inbox").len() == 1);
    let dirs = [(&first, USER), (&second, OTHER)].map(|(machine, user)| {
        let dir = world.dir.path().join(format!("files-{user}"));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join(&machine.name), "text").unwrap();
        for path in [dir.clone(), dir.join(&machine.name)] {
            chown(&path, Some(user), Some(user)).unwrap();
        }
        dir
    });
    first.ok(&["sync", dirs[0].to_str().unwrap()]);
    second.ok(&["sync", dirs[1].to_str().unwrap()]);
    assert_eq!(dirs[1].join("m").metadata().unwrap().uid(), OTHER);

    // neither reads or changes what the other has
    second.base.clone_from(&first.base);
    let spy = second.run(&["list", "inbox"]);
    let said = String::from_utf8_lossy(&spy.stderr).into_owned();
    assert!(
        !spy.status.success() && said.contains("ermission denied"),
        "{said}"
    );
    second.base = world.dir.path().join("second");
    assert_eq!((first.stop(), second.stop()), (Some(0), Some(0)));
}

#[test]
fn a_key_that_root_adds_can_be_read_by_the_hub_of_another_user() {
    let Some((world, m)) = of_another_user() else {
        return;
    };
    let mut add = world.hub_command();
    let out = add.args(["key", "add", "laptop"]).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    assert_eq!(foreign(&world.hub_dir()), [""; 0]);
    // with its first key the hub asks for one: it has read the file that root wrote
    wait_for("the hub wants a key", &world, || {
        m.run(&["hosts"]).status.code() == Some(77)
    });
    let key = String::from_utf8(out.stdout)
        .unwrap()
        .lines()
        .next()
        .unwrap()
        .trim()
        .to_string();
    let mut ask = m.command(&["hosts"]);
    ask.env("MESYNC_API_KEY", key);
    assert!(ask.output().unwrap().status.success());
}
