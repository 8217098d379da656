//! Machines that keep a directory in sync: real processes, real files, and what two such directories have in common.
#![allow(dead_code, clippy::disallowed_methods)] // each test file uses its part; a test renames as a user does

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use mesync::internals::wire::files::Hash;
use serde_json::Value;

use super::files::Hub;
use super::space::left_out;
use super::world::{Machine, World, wait_for};

/// A machine with one directory that it keeps in sync.
pub struct Synced {
    pub machine: Machine,
    pub dir: PathBuf,
    /// More arguments for `daemon`.
    pub flags: Vec<String>,
}

/// All that is in a directory, by name: kind, mode, time and bytes in words.
pub type Tree = BTreeMap<OsString, String>;

impl Synced {
    pub fn new(world: &World, name: &str) -> Synced {
        let dir = world.dir.path().join(format!("{name}-files"));
        fs::create_dir(&dir).unwrap();
        Synced {
            machine: world.machine(name),
            dir,
            flags: Vec::new(),
        }
    }

    pub fn with(self, flags: &[&str]) -> Synced {
        Synced {
            flags: flags.iter().map(|f| f.to_string()).collect(),
            ..self
        }
    }

    /// Runs the client as a user that may not read everything. `false`: this test needs root to do so.
    pub fn run_as_nobody(&mut self, world: &World) -> bool {
        if !rustix::process::getuid().is_root() {
            left_out("only root can run a client as another user");
            return false;
        }
        self.machine.wrap = [
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
        ]
        .map(String::from)
        .to_vec();
        fs::set_permissions(world.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir_all(&self.machine.base).unwrap();
        for dir in [&self.machine.base, &self.dir] {
            chown(dir, Some(65534), Some(65534)).unwrap();
        }
        true
    }

    fn args<'a>(&'a self, command: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
        let mut args = command.to_vec();
        args.extend(["-w", self.dir.to_str().unwrap()]);
        args.extend(more);
        args.extend(self.flags.iter().map(String::as_str));
        args
    }

    pub fn start(&mut self) {
        let args: Vec<String> = self
            .args(&["daemon", "-v"], &["--debounce", "50"])
            .into_iter()
            .map(String::from)
            .collect();
        self.machine
            .start_with(&args.iter().map(String::as_str).collect::<Vec<_>>());
    }

    pub fn stop(&mut self) {
        assert_eq!(self.machine.stop(), Some(0), "{}", self.machine.log());
    }

    /// One pass that must bring all into sync; what it says of itself.
    #[track_caller]
    pub fn pass(&self) -> Value {
        let (status, said) = self.try_pass(&[]);
        assert_eq!(status, 0, "{} is not in sync: {said}", self.machine.name);
        said
    }

    /// One pass: its exit status, and what it says, on standard error if not as JSON.
    pub fn try_pass(&self, more: &[&str]) -> (i32, Value) {
        let out = self.machine.run(&self.args(&["sync", "--json"], more));
        let text = String::from_utf8(if out.stdout.is_empty() {
            out.stderr
        } else {
            out.stdout
        })
        .unwrap();
        (
            out.status.code().unwrap(),
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        )
    }

    /// The text that a pass prints for people.
    pub fn told(&self, more: &[&str]) -> String {
        let out = self.machine.run(&self.args(&["sync"], more));
        format!(
            "{}{}",
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        )
    }

    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.dir.join(path)
    }

    /// Writes a file, the directories above it too.
    pub fn put(&self, path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// As editors save: written beside it, and renamed over it.
    pub fn save(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let temporary = self.at(format!("{path}.part~"));
        fs::write(&temporary, bytes).unwrap();
        fs::rename(temporary, self.at(path)).unwrap();
    }

    pub fn read(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        fs::read(self.at(path)).ok()
    }

    /// As text; "-": there is none.
    pub fn text(&self, path: impl AsRef<Path>) -> String {
        self.read(path).map_or("-".into(), |bytes| {
            String::from_utf8_lossy(&bytes).into_owned()
        })
    }

    pub fn has(&self, path: impl AsRef<Path>) -> bool {
        self.at(path).symlink_metadata().is_ok()
    }

    pub fn remove(&self, path: impl AsRef<Path>) {
        fs::remove_file(self.at(path)).unwrap();
    }

    pub fn rename(&self, from: &str, to: &str) {
        fs::rename(self.at(from), self.at(to)).unwrap();
    }

    pub fn mode(&self, path: &str) -> u32 {
        self.at(path).symlink_metadata().unwrap().mode() & 0o777
    }

    pub fn chmod(&self, path: impl AsRef<Path>, mode: u32) {
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// The content of the tree, without mesync's own directory and unfinished files. `None`: it was
    /// changing.
    pub fn tree(&self) -> Option<Tree> {
        let mut all = Tree::new();
        list(&self.dir, Path::new(""), &mut all).ok()?;
        Some(all)
    }

    /// Names of all that is there, as text.
    pub fn names(&self) -> Vec<String> {
        self.tree()
            .unwrap()
            .keys()
            .map(|name| name.to_string_lossy().into_owned())
            .collect()
    }

    /// Contents of files that have a word in their name.
    pub fn contents(&self, word: &str) -> Vec<String> {
        let mut all: Vec<String> = self
            .names()
            .iter()
            .filter(|n| n.contains(word))
            .map(|n| self.text(n))
            .collect();
        all.sort();
        all
    }

    /// What the daemon says of the directory.
    pub fn status(&self) -> Value {
        let all = fs::read_dir(self.machine.base.join("state/watch"))
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path());
        let read = |p: PathBuf| serde_json::from_slice::<Value>(&fs::read(p).ok()?).ok();
        let dir = self.dir.to_str().unwrap();
        all.filter(|p| p.extension().is_some_and(|e| e == "json"))
            .filter_map(read)
            .find(|s| s["dir"] == dir)
            .unwrap_or_default()
    }

    pub fn condition(&self) -> String {
        self.status()["condition"]
            .as_str()
            .unwrap_or("")
            .to_string()
    }

    /// What it says is wrong.
    pub fn problems(&self) -> String {
        let status = self.status();
        format!("{} {}", status["problems"], status["unsyncable"])
    }

    pub fn trash(&self) -> Vec<String> {
        let entries = fs::read_dir(self.at(".mesync/trash"))
            .into_iter()
            .flatten()
            .flatten();
        entries
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect()
    }
}

fn list(root: &Path, dir: &Path, all: &mut Tree) -> std::io::Result<()> {
    for entry in fs::read_dir(root.join(dir))? {
        let name = entry?.file_name();
        let path = dir.join(&name);
        if path == Path::new(".mesync")
            || name.as_bytes().starts_with(b".mesync-") && name.as_bytes().ends_with(b".tmp")
        {
            continue;
        }
        let full = root.join(&path);
        let found = full.symlink_metadata()?;
        let mode = found.mode() & 0o777;
        let words = if found.is_dir() {
            list(root, &path, all)?;
            format!("dir {mode:o}")
        } else if found.is_symlink() {
            format!("link {:?}", fs::read_link(&full)?)
        } else if found.is_file() {
            let bytes = fs::read(&full)?;
            let beginning = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
            let time = (found.mtime(), found.mtime_nsec());
            format!(
                "file {mode:o} {}.{:09} {} {} {beginning:?}",
                time.0,
                time.1,
                bytes.len(),
                &Hash::of(&bytes).to_string()[..16]
            )
        } else {
            "special".to_string()
        };
        all.insert(
            OsString::from_vec(path.as_os_str().as_bytes().to_vec()),
            words,
        );
    }
    Ok(())
}

/// What differs between two trees, a line each.
pub fn difference(one: &Tree, other: &Tree) -> String {
    let mut lines = String::new();
    for name in one
        .keys()
        .chain(other.keys().filter(|n| !one.contains_key(*n)))
    {
        let (a, b) = (one.get(name), other.get(name));
        if a != b {
            lines += &format!("{name:?}: {a:?} != {b:?}\n");
        }
    }
    lines
}

/// Waits until all trees are the same and all say that they are in sync; that tree.
#[track_caller]
pub fn settled(world: &World, all: &[&Synced]) -> Tree {
    settled_with(world, all, &mut || ())
}

/// The same, with something that is done meanwhile.
#[track_caller]
pub fn settled_with(world: &World, all: &[&Synced], meanwhile: &mut dyn FnMut()) -> Tree {
    let last = std::cell::RefCell::new(String::new());
    let mut tree = Tree::new();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(100);
    wait_for("the trees become equal", world, || {
        meanwhile();
        let trees: Vec<Option<Tree>> = all.iter().map(|s| s.tree()).collect();
        let conditions: Vec<String> = all.iter().map(|s| s.condition()).collect();
        let Some(first) = trees[0].clone() else {
            return false;
        };
        let differs = trees
            .iter()
            .map(|t| t.as_ref().map_or("?".into(), |t| difference(&first, t)))
            .collect::<Vec<_>>()
            .join("--\n");
        *last.borrow_mut() = format!("{differs}{conditions:?}");
        tree = first.clone();
        let equal = trees.iter().all(|t| t.as_ref() == Some(&first))
            && conditions.iter().all(|c| c == "in-sync");
        if !equal && std::time::Instant::now() > end {
            let status: Vec<String> = all.iter().map(|s| s.status().to_string()).collect();
            panic!(
                "the trees never became equal:\n{}\n{}\n{}",
                last.borrow(),
                status.join("\n"),
                world.logs()
            );
        }
        equal
    });
    tree
}

/// What the hub has: live records by full name.
pub fn records(hub: &Hub) -> BTreeMap<String, Value> {
    let (mut all, mut after, mut began) = (BTreeMap::new(), 0, String::new());
    loop {
        let page = hub
            .get(&format!(
                "/api/files/changes?after={after}&kinds=all{began}"
            ))
            .is(200, "")
            .json();
        for row in page["changes"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|row| row["deleted_at"].is_null())
        {
            let (path, name) = (row["path"].as_str().unwrap(), row["name"].as_str().unwrap());
            all.insert(
                format!("{path}/{name}").trim_start_matches('/').to_string(),
                row.clone(),
            );
        }
        if !page["more"].as_bool().unwrap() {
            return all;
        }
        after = page["changes"].as_array().unwrap().last().unwrap()["rev"]
            .as_u64()
            .unwrap();
        began = format!("&began={}", page["began"]);
    }
}

/// The revision of a name on the hub; 0: it has none.
pub fn rev(hub: &Hub, path: &str) -> u64 {
    records(hub)
        .get(path)
        .map_or(0, |row| row["rev"].as_u64().unwrap())
}
