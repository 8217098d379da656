//! A hub that has lost contents gets them back from the machines that have them: by itself, while all of them run, and by
//! each thing that a person may do; and it says what no machine has.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::files::{Hub, noise};
use crate::support::tree::{Synced, difference};
use crate::support::world::wait_for;

type Harm = fn(&Path);

const HARMS: [(&str, Harm); 3] = [
    ("a bit is flipped in each", |path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        fs::write(path, bytes).unwrap();
    }),
    ("each is removed", |path| fs::remove_file(path).unwrap()),
    ("each is emptied", |path| fs::write(path, "").unwrap()),
];

fn chunk_files(hub: &Hub) -> Vec<PathBuf> {
    let dirs = fs::read_dir(hub.world.hub_dir().join("chunks"))
        .unwrap()
        .map(|e| e.unwrap().path());
    dirs.flat_map(|dir| fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()))
        .collect()
}

/// Exit status and standard output of a check of the stopped hub.
fn check(hub: &mut Hub, args: &[&str]) -> (Option<i32>, String) {
    hub.world.stop_hub();
    let out = hub
        .world
        .hub_command()
        .args(["hub", "check"])
        .args(args)
        .output()
        .unwrap();
    (out.status.code(), String::from_utf8(out.stdout).unwrap())
}

#[test]
fn running_machines_send_the_hub_its_lost_chunks() {
    for (how, harm) in HARMS {
        println!("{how}");
        let mut hub = Hub::start();
        let (mut alpha, mut beta) = (
            Synced::new(&hub.world, "alpha"),
            Synced::new(&hub.world, "beta"),
        );
        for (name, bytes) in [
            ("medium", noise(1, 300_000)),
            ("d/long", noise(2, 9_000_000)),
            ("short", noise(3, 20_000)),
        ] {
            alpha.put(name, bytes);
        }
        // not before: it would send the half of a file whose writing takes long
        alpha.start();
        let commits = || hub.get("/api/files").json().as_array().map_or(0, Vec::len);
        wait_for("the hub has all", &hub.world, || commits() == 3);
        let all = chunk_files(&hub);
        assert!(all.len() > 5, "{all:?}");
        all.iter().for_each(|path| harm(path));
        // a machine that wants them finds it out; the one that has them is not touched
        beta.start();
        wait_for("beta has all", &hub.world, || {
            difference(&alpha.tree().unwrap(), &beta.tree().unwrap()).is_empty()
        });
        assert!(
            beta.machine.log().contains("lost a part of its content"),
            "it says why it waits: {}",
            beta.machine.log()
        );
        alpha.stop();
        beta.stop();
        assert_eq!(check(&mut hub, &[]).0, Some(0), "{how}");
    }
}

#[test]
fn each_kind_of_upload_repairs_the_hub() {
    type Act = fn(&Synced);
    let acts: [(&str, Act); 5] = [
        ("the same upload again", |a| {
            drop(a.machine.ok(&["upload", a.at("big").to_str().unwrap()]))
        }),
        ("an upload under another name", |a| {
            drop(
                a.machine
                    .ok(&["upload", a.at("big").to_str().unwrap(), "--name", "other"]),
            )
        }),
        ("touch and a pass", |a| {
            fs::File::options()
                .append(true)
                .open(a.at("big"))
                .unwrap()
                .set_modified(std::time::SystemTime::now())
                .unwrap();
            a.pass();
        }),
        ("a copy and a pass", |a| {
            fs::copy(a.at("big"), a.at("copy")).unwrap();
            a.pass();
        }),
        ("an edit and back", |a| {
            let bytes = fs::read(a.at("big")).unwrap();
            a.put("big", "an edit");
            a.pass();
            a.put("big", bytes);
            a.pass();
        }),
    ];
    for (how, harm) in HARMS {
        for (what, act) in acts {
            println!("{how}: {what}");
            let mut hub = Hub::start();
            let alpha = Synced::new(&hub.world, "alpha");
            alpha.put("big", noise(1, 300_000));
            alpha.pass();
            chunk_files(&hub).iter().for_each(|path| harm(path));
            // what no machine has read, and is as long as it was, cannot be seen to be damaged; a touch alone is not sent at all
            if what == "touch and a pass"
                || what == "the same upload again" && how.contains("flipped")
            {
                let out = alpha.machine.run(&[
                    "download",
                    "big",
                    "-o",
                    alpha.machine.base.join("got").to_str().unwrap(),
                ]);
                let said = String::from_utf8_lossy(&out.stderr).into_owned();
                assert!(
                    out.status.code() == Some(75) && said.contains("lost part of this content"),
                    "{said}"
                );
            }
            act(&alpha);
            let got = alpha.machine.base.join("got");
            alpha
                .machine
                .ok(&["download", "big", "-o", got.to_str().unwrap()]);
            assert!(fs::read(got).unwrap() == noise(1, 300_000));
            assert_eq!(check(&mut hub, &[]).0, Some(0));
        }
    }
}

#[test]
fn a_check_names_chunks_that_no_machine_has_and_requests_them() {
    let mut hub = Hub::start();
    let alpha = Synced::new(&hub.world, "alpha");
    alpha.put("d/kept", noise(1, 50_000));
    alpha.put("gone", noise(2, 50_000));
    alpha.pass();
    alpha.put("gone", "edited");
    alpha.pass();
    chunk_files(&hub)
        .iter()
        .for_each(|path| fs::remove_file(path).unwrap());
    let (status, said) = check(&mut hub, &[]);
    assert_eq!(status, Some(65));
    for part in [
        "lost: d/kept, revision",
        "current: not asked for yet",
        "lost: gone, revision",
        "kept as a version: not asked for yet",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (status, said) = check(&mut hub, &["--repair"]);
    assert!(
        status == Some(65) && said.contains("asked for after the next start"),
        "{said}"
    );
    hub.world.start_hub();
    // a pass with nothing to do for itself
    alpha.pass();
    let (status, said) = check(&mut hub, &[]);
    assert!(status == Some(65) && !said.contains("d/kept"), "{said}");
    assert!(
        said.contains("lost: gone, revision") && said.contains("and no machine has sent it"),
        "{said}"
    );
    hub.world.start_hub();
    // any machine that has the bytes sends them, under any name
    alpha.put("found again", noise(2, 50_000));
    alpha.pass();
    assert_eq!(check(&mut hub, &["--repair"]).0, Some(0));
}
