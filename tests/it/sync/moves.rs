//! Files that are moved between two synced directories of a machine do not count as deletes for the
//! guard, on this machine and on the others; files that are only deleted are held.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::files::Hub;
use crate::support::tree::records;
use crate::support::world::{Machine, World, wait_for};
use serde_json::Value;

const FILES: usize = 40;

/// A machine with two synced directories.
struct Two {
    machine: Machine,
    from: PathBuf,
    to: PathBuf,
}

impl Two {
    fn new(world: &World, name: &str) -> Two {
        let machine = world.machine(name);
        let [from, to] =
            ["from", "to"].map(|remote| world.dir.path().join(format!("{name}-{remote}")));
        let table = |dir: &Path, remote: &str| {
            format!("[[watch]]\npath = {dir:?}\nremote = '{remote}'\ndebounce_ms = 50\n")
        };
        for dir in [&from, &to] {
            fs::create_dir(dir).unwrap();
        }
        fs::create_dir_all(&machine.base).unwrap();
        fs::write(
            machine.base.join("config.toml"),
            table(&from, "from") + &table(&to, "to"),
        )
        .unwrap();
        Two { machine, from, to }
    }

    fn start(&mut self) {
        self.machine.start_with(&["daemon", "-v"]);
    }

    /// A pass over both: its exit status, and what it says of each.
    fn pass(&self) -> (i32, Vec<Value>) {
        let out = self.machine.run(&["sync", "--json"]);
        let said = String::from_utf8(out.stdout).unwrap();
        (
            out.status.code().unwrap(),
            said.lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect(),
        )
    }

    fn counts(&self) -> (usize, usize) {
        (names(&self.from).len(), names(&self.to).len())
    }

    fn moves_all(&self) {
        for name in names(&self.from) {
            fs::rename(self.from.join(&name), self.to.join(&name)).unwrap();
        }
    }

    fn has_held(&self) -> bool {
        self.machine.log().contains("are held")
    }
}

fn names(dir: &Path) -> Vec<String> {
    let all = fs::read_dir(dir)
        .unwrap()
        .flatten()
        .map(|e| e.file_name().into_string().unwrap());
    all.filter(|name| !name.starts_with(".mesync")).collect()
}

fn pair(content: impl Fn(usize) -> String) -> (Hub, Two, Two) {
    let hub = Hub::start();
    let (alpha, beta) = (Two::new(&hub.world, "alpha"), Two::new(&hub.world, "beta"));
    for n in 0..FILES {
        fs::write(alpha.from.join(format!("f{n:02}")), content(n)).unwrap();
    }
    for machine in [&alpha, &beta] {
        let (status, said) = machine.pass();
        assert_eq!((status, said.len()), (0, 2), "{said:?}");
    }
    assert_eq!(beta.counts(), (FILES, 0));
    (hub, alpha, beta)
}

#[test]
fn files_moved_to_another_directory_are_moved_on_every_machine() {
    let (hub, mut alpha, mut beta) = pair(|n| format!("content {n}"));
    alpha.start();
    beta.start();
    wait_for("both work", &hub.world, || {
        [&alpha, &beta]
            .iter()
            .all(|m| m.machine.log().matches("syncing dir=").count() == 2)
    });
    alpha.moves_all();
    wait_for("they are moved on the other machine", &hub.world, || {
        beta.counts() == (0, FILES)
    });
    // another disk: copied, then removed
    for name in names(&beta.to) {
        fs::copy(beta.to.join(&name), beta.from.join(&name)).unwrap();
        fs::remove_file(beta.to.join(&name)).unwrap();
    }
    wait_for("they are moved back", &hub.world, || {
        alpha.counts() == (FILES, 0) && beta.counts() == (FILES, 0)
    });
    assert!(
        !alpha.has_held() && !beta.has_held(),
        "{}",
        hub.world.logs()
    );
}

#[test]
fn files_moved_while_the_machine_was_off_are_moved_by_a_pass() {
    let (_hub, alpha, beta) = pair(|n| format!("content {n}"));
    alpha.moves_all();
    let (status, said) = alpha.pass();
    assert_eq!((status, said.len()), (0, 2), "{said:?}");
    let of = |dir: &Path| {
        said.iter()
            .find(|s| s["dir"] == dir.to_str().unwrap())
            .unwrap()
    };
    assert_eq!(
        (&of(&alpha.from)["deleted"], &of(&alpha.to)["sent"]),
        (&FILES.into(), &FILES.into()),
        "{said:?}"
    );
    let (status, said) = beta.pass();
    assert_eq!((status, beta.counts()), (0, (0, FILES)), "{said:?}");
}

#[test]
fn a_client_killed_in_the_middle_of_a_move_finishes_it() {
    let (hub, mut alpha, _) = pair(|n| format!("content {n}"));
    alpha.start();
    wait_for("it works", &hub.world, || {
        alpha.machine.log().matches("syncing dir=").count() == 2
    });
    alpha.moves_all();
    wait_for("the new names are on the hub", &hub.world, || {
        records(&hub)
            .keys()
            .filter(|path| path.starts_with("to/"))
            .count()
            == FILES
    });
    alpha.machine.kill();
    alpha.start();
    wait_for("the old names are gone there", &hub.world, || {
        !records(&hub).keys().any(|path| path.starts_with("from/"))
    });
    assert!(!alpha.has_held(), "{}", hub.world.logs());
}

#[test]
fn one_new_file_does_not_let_many_equal_deletes_pass() {
    let (hub, alpha, _) = pair(|_| "the same".into());
    alpha.moves_all();
    for name in names(&alpha.to).iter().skip(1) {
        fs::remove_file(alpha.to.join(name)).unwrap();
    }
    let (status, said) = alpha.pass();
    assert_eq!(
        (
            status,
            said.iter()
                .map(|s| s["held_deletes"].as_u64().unwrap())
                .sum::<u64>()
        ),
        (1, FILES as u64 - 1),
        "{said:?}"
    );
    assert_eq!(
        records(&hub)
            .keys()
            .filter(|path| path.starts_with("from/"))
            .count(),
        FILES - 1
    );
}
