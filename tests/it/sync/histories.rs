//! A hub that is set back: its data directory is replaced by an older copy, or a backup is restored. Changes that machines
//! agreed on since then are not undone, and changes that others made meanwhile are not lost.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::files::Hub;
use crate::support::tree::{Synced, difference, records, rev, settled};
use crate::support::world::{self, wait_for};

struct Rig {
    hub: Hub,
    alpha: Synced,
    beta: Synced,
    daemons: bool,
}

fn copy(from: &Path, to: &Path) {
    assert!(
        Command::new("cp")
            .arg("-a")
            .args([from, to])
            .status()
            .unwrap()
            .success()
    );
}

impl Rig {
    fn new(daemons: bool) -> Rig {
        println!("{}", if daemons { "daemons" } else { "passes" });
        let hub = Hub::start();
        let (alpha, beta) = (
            Synced::new(&hub.world, "alpha"),
            Synced::new(&hub.world, "beta"),
        );
        let mut rig = Rig {
            hub,
            alpha,
            beta,
            daemons,
        };
        if daemons {
            rig.alpha.start();
            rig.beta.start();
        }
        for name in ["edited", "deleted", "old", "mode", "kept", "d/below"] {
            rig.alpha.put(name, format!("{name} of before"));
        }
        rig.settle();
        rig
    }

    #[track_caller]
    fn settle(&self) {
        if self.daemons {
            drop(settled(&self.hub.world, &[&self.alpha, &self.beta]));
            return;
        }
        for machine in [&self.alpha, &self.beta, &self.alpha, &self.beta] {
            machine.try_pass(&[]);
        }
        self.alpha.pass();
        assert_eq!(
            difference(&self.alpha.tree().unwrap(), &self.beta.tree().unwrap()),
            ""
        );
    }

    fn path(&self, name: &str) -> PathBuf {
        self.hub.world.dir.path().join(name)
    }

    /// What both agree on, and the hub is to forget.
    fn work(&self) {
        self.alpha.put("edited", "edited later");
        self.alpha.remove("deleted");
        self.alpha.rename("old", "renamed");
        self.beta.chmod("mode", 0o600);
        self.beta.put("new", "new later");
        self.settle();
    }

    #[track_caller]
    fn as_agreed(&self) {
        for (machine, other) in [(&self.alpha, &self.beta), (&self.beta, &self.alpha)] {
            let log = format!("{}\n{}", machine.machine.log(), other.machine.log());
            assert_eq!(
                (
                    machine.text("edited").as_str(),
                    machine.text("new").as_str()
                ),
                ("edited later", "new later"),
                "{log}"
            );
            assert_eq!(
                (
                    machine.has("deleted"),
                    machine.has("old"),
                    machine.text("renamed").as_str()
                ),
                (false, false, "old of before"),
                "{log}"
            );
            assert_eq!(machine.mode("mode"), 0o600, "{log}");
            assert_eq!(machine.contents("sync-conflict"), [""; 0], "{log}");
        }
        let names: Vec<String> = records(&self.hub)
            .into_keys()
            .filter(|name| !name.starts_with('q'))
            .collect();
        assert_eq!(
            names,
            ["d/below", "edited", "kept", "mode", "new", "renamed"]
        );
    }

    /// Puts the data directory back; `meanwhile` is what others do with the hub before the machines look.
    fn put_back(&mut self, from: &str, meanwhile: impl FnOnce(&Hub)) {
        if self.daemons {
            self.alpha.stop();
            self.beta.stop();
        }
        self.hub.world.stop_hub();
        std::fs::remove_dir_all(self.hub.world.hub_dir()).unwrap();
        copy(&self.path(from), &self.hub.world.hub_dir());
        self.hub.world.start_hub();
        meanwhile(&self.hub);
        if self.daemons {
            let noticed = |machine: &Synced| {
                machine
                    .machine
                    .log()
                    .matches("hub was set back; resending")
                    .count()
            };
            let before = [noticed(&self.alpha), noticed(&self.beta)];
            self.alpha.start();
            self.beta.start();
            wait_for("both notice", &self.hub.world, || {
                noticed(&self.alpha) > before[0] && noticed(&self.beta) > before[1]
            });
        }
    }

    fn copy_data(&mut self, to: &str) {
        self.hub.world.stop_hub();
        copy(&self.hub.world.hub_dir(), &self.path(to));
        self.hub.world.start_hub();
    }
}

#[test]
fn changes_agreed_on_after_a_snapshot_of_the_hub_survive_its_return() {
    for (daemons, others) in [(true, 0), (false, 0), (true, 20), (false, 20)] {
        let mut rig = Rig::new(daemons);
        rig.copy_data("snapshot");
        rig.work();
        // the same numbers again, and more of them than were lost
        rig.put_back("snapshot", |hub| {
            (0..others).for_each(|n| {
                drop(
                    hub.upload("", &format!("q{n}"), format!("{n}"), "")
                        .is(201, ""),
                )
            })
        });
        rig.settle();
        rig.as_agreed();
        assert_eq!(rig.alpha.contents("q").len(), others);
        // and it continues
        rig.beta.put("kept", "the last word");
        rig.settle();
        assert_eq!(rig.alpha.text("kept"), "the last word");
    }
}

#[test]
fn changes_agreed_on_after_a_backup_survive_its_restore() {
    for daemons in [true, false] {
        let mut rig = Rig::new(daemons);
        let backup = rig.path("backup");
        let made = rig
            .hub
            .world
            .hub_command()
            .args(["hub", "backup"])
            .arg(&backup)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        rig.work();
        rig.put_back("backup", |_| ());
        rig.settle();
        rig.as_agreed();
    }
}

#[test]
fn changes_of_others_after_a_set_back_are_kept_beside_it() {
    for daemons in [true, false] {
        let mut rig = Rig::new(daemons);
        rig.copy_data("snapshot");
        rig.work();
        rig.put_back("snapshot", |hub| {
            let at = |name: &str| format!("If-Match: \"{}\"\r\n", rev(hub, name));
            hub.upload("", "edited", "edited by another", &at("edited"))
                .is(200, "");
            hub.upload(
                "",
                "deleted",
                "deleted, and edited by another",
                &at("deleted"),
            )
            .is(200, "");
            (0..20).for_each(|n| {
                drop(
                    hub.upload("", &format!("q{n}"), format!("{n}"), "")
                        .is(201, ""),
                )
            });
        });
        rig.settle();
        for machine in [&rig.alpha, &rig.beta] {
            assert_eq!(
                machine.contents("edited"),
                ["edited by another", "edited later"]
            );
            assert_eq!(machine.text("deleted"), "deleted, and edited by another");
            assert_eq!(
                (machine.text("new").as_str(), machine.mode("mode")),
                ("new later", 0o600)
            );
        }
    }
}

#[test]
fn a_condition_on_a_revision_of_the_lost_history_is_not_met() {
    let mut rig = Rig::new(false);
    rig.copy_data("snapshot");
    let etag = |hub: &Hub| records(hub)["edited"]["etag"].as_str().unwrap().to_string();
    rig.alpha.put("edited", "lost");
    rig.settle();
    let lost = (rev(&rig.hub, "edited"), etag(&rig.hub));
    let id = records(&rig.hub)["edited"]["id"]
        .as_str()
        .unwrap()
        .to_string();
    rig.put_back("snapshot", |hub| {
        while rev(hub, "edited") < lost.0 {
            hub.upload(
                "",
                "edited",
                format!("of another {}", rev(hub, "edited")),
                "",
            )
            .is(200, "");
        }
    });
    assert_eq!(rev(&rig.hub, "edited"), lost.0, "the same number");
    assert_ne!(etag(&rig.hub), lost.1);
    rig.hub
        .upload(
            "",
            "edited",
            "over it",
            &format!("If-Match: {}\r\n", lost.1),
        )
        .is(412, "edited");
    let part = |tag: &str| {
        rig.hub.ask(
            "GET",
            &format!("/api/files/{id}/download"),
            &format!("Range: bytes=0-1\r\nIf-Range: {tag}\r\n"),
            "",
        )
    };
    assert_eq!(
        (part(&lost.1).status, part(&etag(&rig.hub)).status),
        (200, 206)
    );
    let tag = lost.1.trim_matches('"').split('-').nth(1).unwrap();
    rig.hub
        .get(&format!("/api/files/{id}/download?rev={}", lost.0))
        .is(200, "of another");
    rig.hub
        .get(&format!(
            "/api/files/{id}/download?rev={}&tag={tag}",
            lost.0
        ))
        .is(404, "");
    // a plain number is all that older programs know
    rig.hub
        .upload(
            "",
            "edited",
            "over it",
            &format!("If-Match: \"{}\"\r\n", lost.0),
        )
        .is(200, "");
}

#[test]
fn many_deletes_that_the_hub_forgot_are_held_once_more() {
    let mut rig = Rig::new(false);
    (0..40).for_each(|n| rig.alpha.put(format!("many/{n}"), n.to_string()));
    rig.settle();
    rig.copy_data("snapshot");
    (0..30).for_each(|n| rig.alpha.remove(format!("many/{n}")));
    assert_eq!(rig.alpha.try_pass(&["--allow-deletes"]).0, 0);
    assert_eq!(rig.beta.try_pass(&["--allow-deletes"]).0, 0);
    rig.put_back("snapshot", |_| ());
    assert_ne!(rig.alpha.try_pass(&[]).0, 0);
    assert_eq!(
        records(&rig.hub)
            .keys()
            .filter(|name| name.starts_with("many/"))
            .count(),
        40
    );
    rig.alpha
        .machine
        .ok(&["approve", rig.alpha.dir.to_str().unwrap()]);
    rig.settle();
    assert_eq!(
        rig.beta
            .names()
            .iter()
            .filter(|name| name.starts_with("many/"))
            .count(),
        10
    );
}

#[test]
fn running_daemons_notice_a_set_back_by_themselves() {
    let mut rig = Rig::new(true);
    rig.copy_data("snapshot");
    rig.work();
    rig.hub.world.stop_hub();
    rig.alpha.put("while the hub is off", "1");
    std::fs::remove_dir_all(rig.hub.world.hub_dir()).unwrap();
    copy(&rig.path("snapshot"), &rig.hub.world.hub_dir());
    rig.hub.world.start_hub();
    rig.beta.put("after", "2");
    wait_for("both notice", &rig.hub.world, || {
        [&rig.alpha, &rig.beta].iter().all(|machine| {
            machine
                .machine
                .log()
                .contains("hub was set back; resending")
        })
    });
    rig.settle();
    assert_eq!(
        (
            rig.beta.text("while the hub is off").as_str(),
            rig.alpha.text("after").as_str()
        ),
        ("1", "2")
    );
    for machine in [&rig.alpha, &rig.beta] {
        machine.remove(if machine.has("after") {
            "after"
        } else {
            "while the hub is off"
        });
        rig.settle();
    }
    rig.as_agreed();
}

/// The same data under another port, and for both machines the address of that.
fn move_hub(rig: &mut Rig, url: impl Fn(u16) -> String) {
    if rig.daemons {
        rig.alpha.stop();
        rig.beta.stop();
    }
    rig.hub.world.stop_hub();
    rig.hub.world.port = world::World::new().port;
    let url = url(rig.hub.world.port);
    for machine in [&mut rig.alpha, &mut rig.beta] {
        machine
            .machine
            .env
            .retain(|(name, _)| name != "MESYNC_SERVER_URL");
        machine
            .machine
            .env
            .push(("MESYNC_SERVER_URL".into(), url.clone()));
    }
    rig.hub.world.start_hub();
}

#[test]
fn a_hub_with_another_address_is_the_same_hub() {
    for daemons in [true, false] {
        let mut rig = Rig::new(daemons);
        move_hub(&mut rig, |port| format!("http://localhost:{port}"));
        // while no client runs
        rig.alpha.remove("deleted");
        rig.alpha.put("edited", "by alpha");
        rig.beta.put("kept", "by beta");
        rig.beta.rename("old", "renamed");
        for machine in [&mut rig.alpha, &mut rig.beta] {
            if daemons {
                machine.start();
                wait_for("it goes on", &rig.hub.world, || {
                    machine.machine.log().contains("hub has a new address")
                });
            }
        }
        rig.settle();
        wait_for("both have all", &rig.hub.world, || {
            if !daemons {
                rig.settle();
            }
            [&rig.alpha, &rig.beta].iter().all(|m| {
                !m.has("deleted")
                    && m.text("edited") == "by alpha"
                    && m.text("kept") == "by beta"
                    && m.has("renamed")
            })
        });
        for machine in [&rig.alpha, &rig.beta] {
            assert_eq!(machine.contents("sync-conflict"), [""; 0]);
            assert!(!machine.has("old"));
            let states = std::fs::read_dir(machine.machine.base.join("state/watch"))
                .unwrap()
                .flatten();
            assert_eq!(
                states
                    .filter(|e| e.path().extension().is_some_and(|e| e == "redb"))
                    .count(),
                1
            );
        }
    }
}

#[test]
fn two_addresses_of_one_hub_do_not_keep_one_directory_at_once() {
    let mut rig = Rig::new(true);
    rig.alpha.machine.env.push((
        "MESYNC_SERVER_URL".into(),
        format!("http://localhost:{}", rig.hub.world.port),
    ));
    let (status, said) = rig.alpha.try_pass(&[]);
    assert!(status != 0, "{said}");
    rig.alpha.machine.env.pop();
    rig.alpha.put("kept", "still in sync");
    rig.settle();
    rig.beta.stop();
}

#[test]
fn another_hub_is_a_stranger_and_the_first_one_is_recognized_when_it_returns() {
    let rig = Rig::new(false);
    let other = Hub::start();
    let mut alpha = rig.alpha;
    alpha
        .machine
        .env
        .push(("MESYNC_SERVER_URL".into(), other.world.url()));
    alpha.pass();
    assert_eq!(
        records(&other).len(),
        6,
        "all of it is new there, and nothing is deleted here"
    );
    assert!(alpha.has("deleted"));
    rig.beta.remove("deleted");
    rig.beta.pass();
    alpha.machine.env.pop();
    alpha.pass();
    assert_eq!((alpha.has("deleted"), alpha.has("kept")), (false, true));
}
