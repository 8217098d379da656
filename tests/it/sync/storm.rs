//! A storm of edits by three writers while hub and daemons are killed: afterwards all trees are
//! equal, and every content still exists that no writer has overwritten or deleted after seeing it.
//!
//! Short by default; MESYNC_STORM_ROUNDS=30 for long. The seed is printed; SEED repeats the choices, not the timing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use crate::support::tree::{Synced, Tree, settled_with};
use crate::support::world::{Random, World, wait_for};
use rustix::fs::{CWD, RenameFlags, renameat_with};

const DIRS: [&str; 6] = ["", "a", "b", "a/c", "b/d/e", "n"];

fn rounds() -> u64 {
    std::env::var("MESYNC_STORM_ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(5)
}

/// Marks of contents: each is written once, by one writer.
#[derive(Default)]
struct Marks {
    /// With where, and when.
    written: Mutex<BTreeMap<String, String>>,
    /// Somebody saw it and took it away.
    removed: Mutex<BTreeSet<String>>,
    next: AtomicU64,
    done: AtomicU64,
}

/// All marks in some bytes.
fn marks(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let mark = |part: &str| part.rfind('#').map(|at| part[at..].to_string());
    text.split_inclusive(';')
        .filter(|p| p.ends_with(';'))
        .filter_map(mark)
        .collect()
}

impl Marks {
    fn fresh(&self, writer: &str) -> String {
        format!("#{writer}{};", self.next.fetch_add(1, SeqCst))
    }

    fn wrote(&self, mark: &str, path: &Path) {
        let when = self.done.load(SeqCst);
        self.written
            .lock()
            .unwrap()
            .insert(mark.into(), format!("{} at {when}", path.display()));
    }

    fn took_away(&self, bytes: &[u8]) {
        self.removed.lock().unwrap().extend(marks(bytes));
    }
}

struct Writer<'a> {
    name: &'a str,
    dir: PathBuf,
    /// On the same disk, outside.
    aside: PathBuf,
    random: Random,
    all: &'a Marks,
}

impl Writer<'_> {
    fn name(&mut self) -> PathBuf {
        let dir = DIRS[self.random.below(DIRS.len() as u64) as usize];
        self.dir
            .join(dir)
            .join(format!("f{}.txt", self.random.below(8)))
    }

    /// Something that is there.
    fn victim(&mut self) -> Option<PathBuf> {
        let mut all = Vec::new();
        walk(&self.dir, &mut |path, is_dir| {
            if !is_dir {
                all.push(path);
            }
        });
        let at = self.random.below(all.len().max(1) as u64) as usize;
        (!all.is_empty()).then(|| all.swap_remove(at))
    }

    fn dirs(&self) -> Vec<PathBuf> {
        let mut all = Vec::new();
        walk(&self.dir, &mut |path, is_dir| {
            if is_dir {
                all.push(path);
            }
        });
        all
    }

    fn content(&mut self) -> (String, Vec<u8>) {
        let mark = self.all.fresh(self.name);
        let most =
            [100, 100, 100, 3000, 3000, 100_000, 100_000, 1 << 20][self.random.below(8) as usize];
        let mut bytes = mark.clone().into_bytes();
        bytes.resize(bytes.len() + self.random.below(most) as usize, b'x');
        (mark, bytes)
    }

    fn scratch(&mut self) -> PathBuf {
        self.aside.join(self.random.below(u64::MAX).to_string())
    }

    fn act(&mut self) {
        let what = self.random.below(100);
        match what {
            0..25 => self.create(),
            25..45 => self.overwrite(),
            45..58 => self.append(),
            58..70 => self.rename(),
            70..80 => self.delete(),
            80..90 => self.chmod(),
            90..94 => drop(fs::create_dir_all(
                self.dir
                    .join(["n/o", "a/p", "q"][self.random.below(3) as usize]),
            )),
            94..98 => self.rename_dir(),
            _ => self
                .dirs()
                .iter()
                .rev()
                .for_each(|dir| drop(fs::remove_dir(dir))),
        }
        self.all.done.fetch_add(1, SeqCst);
    }

    fn create(&mut self) {
        let path = self.name();
        let _ = fs::create_dir_all(path.parent().unwrap());
        let (mark, bytes) = self.content();
        let Ok(mut file) = fs::File::options().write(true).create_new(true).open(&path) else {
            return;
        };
        let half = bytes.len() / 2;
        let written = file
            .write_all(&bytes[..half])
            .and_then(|()| file.write_all(&bytes[half..]));
        written.unwrap();
        self.all.wrote(&mark, &path);
    }

    /// The removed content is what the rename returns, whichever writer has changed it a moment
    /// before.
    fn overwrite(&mut self) {
        let Some(path) = self.victim() else { return };
        let ((mark, bytes), scratch) = (self.content(), self.scratch());
        fs::write(&scratch, bytes).unwrap();
        if renameat_with(CWD, &scratch, CWD, &path, RenameFlags::EXCHANGE).is_ok() {
            self.all.wrote(&mark, &path);
            if let Ok(bytes) = fs::read(&scratch) {
                self.all.took_away(&bytes);
            }
        }
        let _ = fs::remove_file(scratch);
    }

    fn append(&mut self) {
        let Some(path) = self.victim() else { return };
        let mark = self.all.fresh(self.name);
        let Ok(mut file) = fs::File::options().append(true).open(&path) else {
            return;
        };
        if file.write_all(mark.as_bytes()).is_ok() {
            // if another file has taken its name meanwhile, this one was out of reach already
            let same = path
                .symlink_metadata()
                .is_ok_and(|m| m.ino() == file.metadata().unwrap().ino());
            if same {
                self.all.wrote(&mark, &path);
            }
        }
    }

    fn rename(&mut self) {
        let (Some(from), to) = (self.victim(), self.name()) else {
            return;
        };
        let _ = fs::create_dir_all(to.parent().unwrap());
        let _ = renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE);
    }

    fn delete(&mut self) {
        let (Some(path), scratch) = (self.victim(), self.scratch()) else {
            return;
        };
        if fs::rename(&path, &scratch).is_ok() {
            self.all.took_away(&fs::read(&scratch).unwrap());
            fs::remove_file(scratch).unwrap();
        }
    }

    fn chmod(&mut self) {
        use std::os::unix::fs::PermissionsExt;
        let mode = [0o600, 0o640, 0o644, 0o755][self.random.below(4) as usize];
        if let Some(path) = self.victim() {
            let _ = fs::set_permissions(path, fs::Permissions::from_mode(mode));
        }
    }

    fn rename_dir(&mut self) {
        let dirs = self.dirs();
        if dirs.is_empty() {
            return;
        }
        let from = &dirs[self.random.below(dirs.len() as u64) as usize];
        let to = self
            .dir
            .join(["a", "b", "b/d", "m", "a/c"][self.random.below(5) as usize]);
        let _ = renameat_with(CWD, from, CWD, &to, RenameFlags::NOREPLACE);
    }
}

fn walk(dir: &Path, visit: &mut dyn FnMut(PathBuf, bool)) {
    let mut all: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().collect();
    all.sort_by_key(|e| e.file_name());
    for entry in all {
        let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
        if entry.file_name().to_string_lossy().starts_with(".mesync") {
            continue;
        }
        visit(entry.path(), is_dir);
        if is_dir {
            walk(&entry.path(), visit);
        }
    }
}

/// What the guard holds was meant: the writers delete more than it lets through.
fn approve(all: &[&Synced]) {
    for machine in all
        .iter()
        .filter(|m| m.status()["held_deletes"].as_u64().unwrap_or(0) > 0)
    {
        machine
            .machine
            .ok(&["approve", machine.dir.to_str().unwrap(), "--json"]);
    }
}

fn converge(world: &World, machines: &[Synced]) -> Tree {
    let all: Vec<&Synced> = machines.iter().collect();
    let mut last = std::time::Instant::now();
    settled_with(world, &all, &mut || {
        if last.elapsed() > Duration::from_millis(300) {
            last = std::time::Instant::now();
            approve(&all);
        }
    })
}

/// Every mark that was written and not taken away is in some file, and nothing is left over.
fn check(world: &World, round: u64, machines: &[Synced], all: &Marks) {
    let mut there = BTreeSet::new();
    let mut left_over = Vec::new();
    for machine in machines {
        walk(&machine.dir, &mut |path, is_dir| {
            if !is_dir {
                there.extend(marks(&fs::read(path).unwrap()));
            }
        });
        let names = fs::read_dir(&machine.dir)
            .unwrap()
            .flatten()
            .map(|e| e.path());
        left_over.extend(names.filter(|p| p.extension().is_some_and(|e| e == "tmp")));
    }
    let removed = all.removed.lock().unwrap();
    let written = all.written.lock().unwrap();
    let lost: Vec<_> = written
        .iter()
        .filter(|(mark, _)| !there.contains(*mark) && !removed.contains(*mark))
        .collect();
    let found = |mark: &str| -> Vec<String> {
        let grep = |m: &Synced| {
            let out = std::process::Command::new("grep")
                .args(["-rlF", mark])
                .arg(&m.dir)
                .output()
                .unwrap();
            String::from_utf8_lossy(&out.stdout).into_owned()
        };
        machines.iter().map(grep).collect()
    };
    if let Some((mark, _)) = lost.first() {
        panic!(
            "round {round}: {} contents are lost: {lost:?}; the first is in {:?}\n{}",
            lost.len(),
            found(mark),
            world.logs()
        );
    }
    assert_eq!(left_over, Vec::<PathBuf>::new());
    println!(
        "round {round}: {} contents written, {} taken away, {} there",
        written.len(),
        removed.len(),
        there.len()
    );
}

#[test]
fn all_trees_converge_and_no_content_is_lost() {
    let mut random = Random::seeded("sync_storm");
    let mut world = World::new();
    world.start_hub();
    let names = ["alpha", "beta", "gamma"];
    let mut machines: Vec<Synced> = names.iter().map(|name| Synced::new(&world, name)).collect();
    machines.iter_mut().for_each(Synced::start);
    let dirs: Vec<PathBuf> = machines.iter().map(|m| m.dir.clone()).collect();
    let aside = world.dir.path().join("aside");
    fs::create_dir(&aside).unwrap();
    let all = Marks::default();
    let backup = world.dir.path().join("backup");
    let (taken_at, restored_at) = (rounds() / 3, rounds() / 3 + 1);
    for round in 0..rounds() {
        if round == taken_at {
            let out = world
                .hub_command()
                .args(["hub", "backup"])
                .arg(&backup)
                .output()
                .unwrap();
            assert!(out.status.success(), "{out:?}");
        }
        let actions = 30 + random.below(60);
        let begun = all.done.load(SeqCst);
        std::thread::scope(|scope| {
            for (dir, name) in dirs.iter().zip(["a", "b", "c"]) {
                let (dir, random) = (dir.clone(), Random(random.below(u64::MAX)));
                let mut writer = Writer {
                    name,
                    dir,
                    aside: aside.clone(),
                    random,
                    all: &all,
                };
                scope.spawn(move || {
                    for _ in 0..actions {
                        writer.act();
                        // at the pace of a program
                        std::thread::park_timeout(Duration::from_millis(writer.random.below(25)));
                    }
                });
            }
            for kill in 1..=5 {
                wait_for("the storm rages", &world, || {
                    all.done.load(SeqCst) >= begun + kill * actions / 2
                });
                match random.below(4) as usize {
                    3 => {
                        world.kill_hub();
                        world.start_hub();
                    }
                    n => {
                        machines[n].machine.kill();
                        machines[n].start();
                    }
                }
            }
        });
        if round == restored_at {
            world.kill_hub();
            fs::rename(world.hub_dir(), world.dir.path().join("lost")).unwrap();
            fs::rename(&backup, world.hub_dir()).unwrap();
            world.start_hub();
        }
        converge(&world, &machines);
        check(&world, round, &machines, &all);
    }
    machines.iter_mut().for_each(Synced::stop);
    assert_eq!(world.stop_hub(), Some(0));
    let out = world.hub_command().args(["hub", "check"]).output().unwrap();
    assert!(out.status.success(), "{out:?}");
}
