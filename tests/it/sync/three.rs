//! Three machines and a tree from real life: more than a thousand files with the names, links, modes and times that a system has, edited,
//! renamed, deleted on all three at once. In the end all have the same, to the nanosecond.
//!
//! The seed is printed; SEED repeats the choices, not the timing.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::support::files::Hub;
use crate::support::tree::{Synced, Tree, difference, settled};
use crate::support::world::{Random, wait_for};

/// Of each source, and of all.
const MOST: [usize; 2] = [700, 1800];
const LARGEST: u64 = 1 << 20;
/// What each machine does.
const ACTS: usize = 100;

/// Where trees from real life are: parts of each are taken.
fn sources() -> Vec<PathBuf> {
    let rust = Command::new("rustc").args(["--print", "sysroot"]).output();
    let rust = rust.map_or("/".into(), |out| {
        PathBuf::from(String::from_utf8(out.stdout).unwrap().trim())
    });
    let rust = [
        rust.join("share/man"),
        rust.join("lib/rustlib/etc"),
        rust.join("share/doc"),
    ];
    let system = [
        "/usr/share/zoneinfo",
        "/etc",
        "/usr/share/perl",
        "/usr/share/doc",
    ]
    .map(PathBuf::from);
    [rust.to_vec(), system.to_vec()].concat()
}

/// Copies everything that is world-readable: files with their modes and times, links as they are.
/// Returns the names so far.
fn copy(from: &Path, to: &Path, most: usize) -> usize {
    let Ok(entries) = fs::read_dir(from) else {
        return 0;
    };
    let mut all: Vec<_> = entries.flatten().map(|e| e.file_name()).collect();
    all.sort();
    let mut names = 0;
    for name in all {
        if names >= most {
            break;
        }
        let (from, to) = (from.join(&name), to.join(&name));
        let Ok(found) = from.symlink_metadata() else {
            continue;
        };
        if found.is_symlink() {
            symlink(fs::read_link(&from).unwrap(), to).unwrap();
            names += 1;
        } else if found.is_dir() {
            fs::create_dir(&to).unwrap();
            names += 1 + copy(&from, &to, most - names - 1);
        } else if found.is_file() && found.len() <= LARGEST && found.mode() & 0o004 != 0 {
            fs::copy(&from, &to).unwrap();
            let file = fs::File::options().append(true).open(&to).unwrap();
            file.set_modified(found.modified().unwrap()).unwrap();
            names += 1;
        }
    }
    names
}

/// Somebody at work in a directory.
struct Person<'a> {
    dir: &'a Path,
    name: &'a str,
    random: Random,
    files: Vec<PathBuf>,
    dirs: Vec<PathBuf>,
}

impl Person<'_> {
    fn look_around(&mut self) {
        (self.files, self.dirs) = (Vec::new(), Vec::new());
        let mut todo = vec![self.dir.to_path_buf()];
        while let Some(dir) = todo.pop() {
            // others move it away meanwhile
            for entry in fs::read_dir(dir)
                .into_iter()
                .flatten()
                .flatten()
                .filter(|e| e.file_name() != ".mesync")
            {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => todo.push(entry.path()),
                    Ok(kind) if kind.is_file() => self.files.push(entry.path()),
                    _ => {}
                }
                if entry.path().is_dir() && !entry.path().is_symlink() {
                    self.dirs.push(entry.path());
                }
            }
        }
        self.files.sort();
        self.dirs.sort();
    }

    fn pick(&mut self, all: &[PathBuf]) -> PathBuf {
        all[self.random.below(all.len() as u64) as usize].clone()
    }

    /// What is not there any more, or not yet, is no harm: as with people.
    fn act(&mut self, n: usize) {
        let (file, dir) = (
            self.pick(&self.files.clone()),
            self.pick(&self.dirs.clone()),
        );
        let new = format!("{}-{n}", self.name);
        let _ = match self.random.below(100) {
            0..20 => fs::write(&file, format!("{} was here: {n}", self.name)),
            20..35 => fs::File::options()
                .append(true)
                .open(&file)
                .and_then(|mut f| std::io::Write::write_all(&mut f, new.as_bytes())),
            35..50 => {
                let beside = file.with_file_name(format!("{new}~"));
                fs::write(&beside, &new).and_then(|()| fs::rename(beside, &file))
            }
            50..62 => {
                let mode = [0o600, 0o644, 0o755, 0o444, 0o400][self.random.below(5) as usize];
                fs::set_permissions(&file, fs::Permissions::from_mode(mode))
            }
            62..70 => fs::remove_file(&file),
            70..78 => fs::rename(&file, dir.join(&new)),
            78..86 => fs::rename(&dir, dir.with_file_name(&new)),
            86..92 => fs::create_dir_all(dir.join(&new).join("a/b"))
                .and_then(|()| fs::write(dir.join(&new).join("a/b/f"), &new)),
            92..95 => symlink(&file, dir.join(&new)),
            95..97 => fs::remove_file(&file).and_then(|()| fs::create_dir(&file)),
            _ => fs::copy(&file, dir.join(&new)).map(drop),
        };
    }
}

#[test]
fn three_machines_agree_on_a_tree_from_real_life() {
    let seed = Random::seeded("three_machines_agree_on_a_tree_from_real_life").0;
    let hub = Hub::start();
    let mut all = ["alpha", "beta", "gamma"].map(|name| Synced::new(&hub.world, name));
    let mut names = 0;
    for (n, source) in sources().iter().enumerate() {
        let to = all[0].at(format!("{n}"));
        fs::create_dir(&to).unwrap();
        names += copy(source, &to, MOST[0].min(MOST[1].saturating_sub(names)));
    }
    assert!(
        names > 200,
        "this system has not enough files to try with: {names}"
    );
    let original = all[0].tree().unwrap();
    let count = |tree: &Tree, kind: &str| tree.values().filter(|v| v.starts_with(kind)).count();
    println!(
        "{} names: {} files, {} links",
        original.len(),
        count(&original, "file"),
        count(&original, "link")
    );

    let began = Instant::now();
    all.iter_mut().for_each(Synced::start);
    let in_sync = |what: &str, after: &str| {
        let ready = |s: &Synced| s.condition() == "in-sync" && s.has(after);
        wait_for(what, &hub.world, || all.iter().all(ready));
        settled(&hub.world, &all.each_ref())
    };
    let first = in_sync("all have it", "0");
    assert_eq!(difference(&original, &first), "");
    println!("all have it after {:?}", began.elapsed());

    let began = Instant::now();
    std::thread::scope(|scope| {
        for (n, machine) in all.iter().enumerate() {
            let random = Random(seed.wrapping_add(1 + n as u64));
            let mut person = Person {
                dir: &machine.dir,
                name: &machine.machine.name,
                random,
                files: Vec::new(),
                dirs: Vec::new(),
            };
            scope.spawn(move || {
                for n in 0..ACTS {
                    if n % 10 == 0 {
                        person.look_around();
                    }
                    person.act(n);
                }
            });
        }
    });
    println!("they have worked for {:?}", began.elapsed());
    // the last of all changes, by each
    all.iter()
        .for_each(|s| s.put(format!("last-{}", s.machine.name), "x"));
    wait_for("the last change is everywhere", &hub.world, || {
        all.iter().all(|s| {
            all.iter()
                .all(|by| s.has(format!("last-{}", by.machine.name)))
        })
    });
    let last = in_sync("all are in sync", "last-alpha");
    println!(
        "{} names, {} of them conflict copies, after {:?}",
        last.len(),
        all[0].contents(".sync-conflict-").len(),
        began.elapsed()
    );
    assert!(
        difference(&first, &last).lines().count() > ACTS,
        "nobody has done anything"
    );
    for s in &all {
        let out = s.machine.run(&["status"]);
        assert!(
            out.status.success(),
            "{}: {}",
            s.machine.name,
            String::from_utf8_lossy(&out.stdout)
        );
        let log = s.machine.log();
        // the tests may run in memory
        let wanted = [
            "was edited on two machines",
            "the base directory is in memory",
        ];
        let warnings = log
            .lines()
            .filter(|l| l.contains("warn") && !wanted.iter().any(|w| l.contains(w)));
        assert_eq!(warnings.collect::<Vec<_>>(), [""; 0], "{}", s.machine.name);
    }
    // a restart finds nothing to do
    let before = hub
        .get("/api/files/changes?after=0&limit=1&kinds=all")
        .json();
    for s in &mut all {
        s.stop();
        let said = s.pass();
        let done = [
            "sent",
            "deleted",
            "received",
            "removed",
            "conflicts",
            "bytes_sent",
            "bytes_received",
        ];
        assert!(done.iter().all(|what| said[what] == 0), "{said}");
    }
    assert_eq!(
        before["rev"],
        hub.get("/api/files/changes?after=0&limit=1&kinds=all")
            .json()["rev"]
    );
}
