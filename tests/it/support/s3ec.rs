//! The published `s3ec`, the real program, as a user of our hub: its commands and its daemon, and what the hub and directories
//! hold.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::world::{self, World};

/// One user of s3ec: a home of its own, and a directory that it works in.
pub struct Theirs {
    program: PathBuf,
    pub home: PathBuf,
    url: String,
    daemon: Option<Child>,
}

pub fn program() -> Option<PathBuf> {
    let given = std::env::var_os("S3EC").map(PathBuf::from);
    let program = given
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/interop/bin/s3ec"));
    if program.is_file() {
        return Some(program);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "{} is missing: run \"make target/interop/bin/s3ec\"",
        program.display()
    );
    println!("left out: there is no {}", program.display());
    None
}

/// The binary that is delivered gets all of it; a debug build, of which `make test` wants to know soon, a part.
pub fn is_thorough() -> bool {
    std::env::var_os("MESYNC_TEST_BINARY").is_some()
}

impl Theirs {
    /// Logged in with a key of its own.
    pub fn new(world: &World, name: &str) -> Option<Theirs> {
        Theirs::with(world, name, &[])
    }

    /// Logged in with a key of its own that has these rights.
    pub fn with(world: &World, name: &str, rights: &[&str]) -> Option<Theirs> {
        let theirs = Theirs {
            program: program()?,
            home: world.dir.path().join(name),
            url: world.url(),
            daemon: None,
        };
        fs::create_dir_all(theirs.work()).unwrap();
        let key = world
            .hub_command()
            .args(["key", "add", name])
            .args(rights)
            .output()
            .unwrap();
        let key = String::from_utf8(key.stdout).unwrap();
        let said = theirs.ok(&[
            "login",
            "--server",
            &format!("{}/", theirs.url),
            "--api-key",
            key.trim(),
        ]);
        assert!(said.contains("Logged in"), "{said}");
        Some(theirs)
    }

    pub fn work(&self) -> PathBuf {
        self.home.join("work")
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("HOME", &self.home)
            .env("RUST_LOG", "info")
            .current_dir(self.work())
            .args(args)
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let out = self.run(args);
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(
            out.status.success(),
            "s3ec {args:?}: {} {text} {}",
            out.status,
            String::from_utf8_lossy(&out.stderr)
        );
        text
    }

    /// Uploads a file of the working directory; the id, or `None` if the hub has said that nothing changed.
    #[track_caller]
    pub fn upload(&self, name: &str, path: &str) -> Option<String> {
        let said = if path.is_empty() {
            self.ok(&["upload", "--", name])
        } else {
            self.ok(&["upload", "--path", path, "--", name])
        };
        let id = said
            .rsplit_once("(id: \"")
            .and_then(|(_, id)| id.split_once("\")"));
        assert!(id.is_some() || said.contains("(unchanged)"), "{said}");
        id.map(|(id, _)| id.to_string())
    }

    pub fn info(&self, id: &str) -> Value {
        serde_json::from_str(&self.ok(&["info", id])).unwrap()
    }

    pub fn start(&mut self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.home.with_extension("log"))
            .unwrap();
        let work = self.work();
        let mut command =
            self.command(&["daemon", "-w", work.to_str().unwrap(), "--debounce", "50"]);
        self.daemon = Some(
            command
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap(),
        );
    }

    pub fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        self.stop();
    }
}

pub fn world() -> World {
    let mut world = World::new();
    world.start_hub();
    world
}

/// All that the hub lists: full name to record.
pub fn listing(world: &World) -> BTreeMap<String, Value> {
    let admin = fs::read_to_string(world.hub_dir().join("local.key")).unwrap();
    let mut all = BTreeMap::new();
    loop {
        let mut answer = ureq::get(format!(
            "{}/api/files?limit=1000&offset={}",
            world.url(),
            all.len()
        ))
        .header("x-api-key", admin.trim())
        .call()
        .unwrap();
        let rows: Vec<Value> =
            serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap();
        // one that was not full was the last: a further one would see what has come meanwhile
        let last = rows.len() < 1000;
        for row in rows {
            let full = [row["path"].as_str().unwrap(), row["name"].as_str().unwrap()].join("/");
            assert!(
                all.insert(full.trim_start_matches('/').to_string(), row)
                    .is_none(),
                "{full} twice"
            );
        }
        if last {
            return all;
        }
    }
}

/// Files below a directory and their contents.
pub fn tree(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, dir: &Path, out: &mut BTreeMap<String, Vec<u8>>) {
        // a temporary name may be gone by now
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                walk(root, &entry.path(), out)
            } else {
                let name = entry
                    .path()
                    .strip_prefix(root)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_string();
                out.insert(name, fs::read(entry.path()).unwrap_or_default());
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(dir, dir, &mut out);
    out
}

pub fn set_mtime(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, 123_456_789);
    fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(time)
        .unwrap();
}

/// Some bytes that differ by seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut random = world::Random(seed);
    let mut bytes: Vec<u8> = (0..length.div_ceil(8))
        .flat_map(|_| random.below(u64::MAX).to_le_bytes())
        .collect();
    bytes.truncate(length);
    bytes
}

/// The hub's latest revision.
pub fn latest(world: &World) -> u64 {
    listing(world)
        .values()
        .map(|r| r["rev"].as_u64().unwrap())
        .max()
        .unwrap_or(0)
}

/// Event streams that are open at the hub.
pub fn streams(world: &World) -> u64 {
    let admin = fs::read_to_string(world.hub_dir().join("local.key")).unwrap();
    let mut answer = ureq::get(format!("{}/metrics", world.url()))
        .header("x-api-key", admin.trim())
        .call()
        .unwrap();
    let text = answer.body_mut().read_to_string().unwrap();
    text.lines()
        .find_map(|line| line.strip_prefix("mesync_event_streams ")?.parse().ok())
        .unwrap_or(0)
}
