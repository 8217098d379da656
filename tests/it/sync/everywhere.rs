//! An approval of deletes that is given once, for all machines.

use crate::support::files::Hub;
use crate::support::tree::{Synced, settled};
use crate::support::world::{World, wait_for};

const FILES: usize = 40;

/// A machine with a key of its own, and its directory, which is `shared` on the hub.
fn machine(world: &World, name: &str, rights: &[&str]) -> Synced {
    let mut synced = Synced::new(world, name).with(&["--remote", "shared"]);
    let key = world.hub_ok(&[&["key", "add", name], rights].concat());
    synced.machine.env.push(("MESYNC_API_KEY".into(), key));
    synced
}

fn names(prefix: &str) -> Vec<String> {
    (0..FILES).map(|n| format!("{prefix}{n}")).collect()
}

/// The old files that are there; `None`: the directory was changing.
fn old(synced: &Synced) -> Option<Vec<String>> {
    let names = synced.tree()?.into_keys();
    let names = names.map(|name| name.into_string().unwrap());
    Some(names.filter(|name| name.starts_with("old-")).collect())
}

fn holds(world: &World, synced: &Synced) {
    wait_for("the deletes are held", world, || {
        synced.status()["held_deletes"] == FILES
    });
}

fn approve(synced: &Synced, flags: &[&str]) -> (Option<i32>, String) {
    let dir = synced.dir.to_str().unwrap();
    let out = synced.machine.run(&[&["approve", dir], flags].concat());
    let said = [out.stdout, out.stderr].concat();
    (out.status.code(), String::from_utf8(said).unwrap())
}

#[test]
fn deletes_are_approved_once_for_machines_that_hold_them_and_for_those_that_are_away() {
    let hub = Hub::start();
    let world = &hub.world;
    let mut all = ["deletes", "hears", "away", "admin"].map(|name| {
        let rights: &[&str] = if name == "admin" { &["--admin"] } else { &[] };
        machine(world, name, rights)
    });
    for name in names("old-").iter().chain(&names("kept-")) {
        all[0].put(name, name);
    }
    all.iter_mut().for_each(Synced::start);
    let [deletes, hears, away, admin] = &mut all;
    settled(world, &[deletes, hears, away, admin]);
    away.stop();
    names("old-").iter().for_each(|name| deletes.remove(name));
    holds(world, deletes);
    // without the right the hub refuses, and nothing is approved here either
    let (status, said) = approve(deletes, &["--everywhere"]);
    assert_eq!(status, Some(77), "{said}");
    assert!(said.contains("key set deletes --admin"), "{said}");
    // a person looks at the list, takes 22 out of it, and approves the rest for all from another machine
    let (_, list) = approve(deletes, &["--dry-run", "--json"]);
    let (kept, rest): (Vec<&str>, Vec<&str>) = list
        .lines()
        .partition(|l| l.contains("\"old-1") || l.contains("\"old-2"));
    let approve_list = |lines: &[&str], wants: &str| {
        let file = world.dir.path().join("list");
        std::fs::write(&file, lines.join("\n")).unwrap();
        let flags = ["--everywhere", "--listed", file.to_str().unwrap()];
        let (status, said) = approve(admin, &flags);
        assert!(status == Some(0) && said.contains(wants), "{said}");
    };
    approve_list(&rest, "18 deletes approved for all machines");
    wait_for("all but 22 are deleted on each machine", world, || {
        old(deletes).is_some_and(|left| left.is_empty())
            && [&*hears, admin]
                .iter()
                .all(|s| old(s).is_some_and(|left| left.len() == 22))
    });
    // a person decides on the others later
    assert_eq!(deletes.status()["held_deletes"], 22);
    // a machine that hears of it later holds nothing but what was changed there
    away.put("old-3", "edited meanwhile");
    away.start();
    approve_list(&kept, "22 deletes approved for all machines");
    settled(world, &[deletes, hears, away, admin]);
    assert_eq!(old(deletes).unwrap(), ["old-3"]);
    assert_eq!(deletes.text("old-3"), "edited meanwhile");
    // later deletes are judged anew, also after a restart of the hub
    names("kept-").iter().for_each(|name| hears.remove(name));
    holds(world, hears);
    let (status, _) = approve(hears, &[]);
    assert_eq!(status, Some(0));
    holds(world, admin);
    holds(world, away);
    let (status, said) = approve(admin, &["--everywhere"]);
    assert!(
        status == Some(0) && said.contains("40 deletes approved for all machines"),
        "{said}"
    );
    settled(world, &[deletes, hears, away, admin]);
    assert_eq!(admin.names(), ["old-3"]);
}

#[test]
fn an_approval_outlives_the_hub_and_is_of_one_revision() {
    let mut hub = Hub::start();
    let mut one = machine(&hub.world, "one", &["--admin"]);
    let mut other = machine(&hub.world, "other", &[]);
    names("f").iter().for_each(|name| one.put(name, name));
    one.start();
    other.start();
    settled(&hub.world, &[&one, &other]);
    other.stop();
    names("f").iter().for_each(|name| one.remove(name));
    holds(&hub.world, &one);
    let (status, said) = approve(&one, &["--everywhere"]);
    assert_eq!(status, Some(0), "{said}");
    wait_for("they are gone", &hub.world, || one.names().is_empty());
    settled(&hub.world, &[&one]);
    hub.world.stop_hub();
    hub.world.start_hub();
    // the same names at other revisions are not approved
    names("f").iter().for_each(|name| one.put(name, "again"));
    settled(&hub.world, &[&one]);
    other.start();
    settled(&hub.world, &[&one, &other]);
    names("f").iter().for_each(|name| one.remove(name));
    holds(&hub.world, &one);
    let (_, said) = approve(&one, &["--dry-run"]);
    assert_eq!(said.lines().count(), FILES);
    approve(&one, &[]);
    holds(&hub.world, &other);
}
