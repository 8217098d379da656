//! Machines with a directory that is kept in sync through `s3em`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::support::program::{Mesync, Ran};
use crate::support::s3em::{KEY, S3em};

/// A machine with a directory, logged in at the server.
pub(super) struct Machine {
    pub(super) m: Mesync,
    pub(super) daemon: Option<Child>,
}

impl Machine {
    pub(super) fn new(name: &str, server: &S3em) -> Machine {
        let m = Mesync::named(name);
        fs::create_dir(m.home().join("dir")).unwrap();
        m.ok(["login", "--server", &server.url, "--api-key", KEY]);
        Machine { m, daemon: None }
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.m.home().join("dir").join(name)
    }

    pub(super) fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        fs::write(self.at(name), content).unwrap();
    }

    pub(super) fn rename(&self, from: &str, to: &str) {
        fs::create_dir_all(self.at(to).parent().unwrap()).unwrap();
        fs::rename(self.at(from), self.at(to)).unwrap();
    }

    pub(super) fn pass(&self, more: &[&str]) -> Ran {
        let dir = self.at("");
        self.m
            .run([&["sync", "-w", dir.to_str().unwrap()], more].concat())
    }

    #[track_caller]
    pub(super) fn sync(&self) -> String {
        let ran = self.pass(&[]);
        assert_eq!(ran.status, 0, "{ran:?}");
        ran.out
    }

    pub(super) fn start(&mut self) {
        self.start_as("daemon", &[]);
    }

    pub(super) fn start_as(&mut self, command: &str, env: &[(&str, &str)]) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.m.home().join("log"))
            .unwrap();
        let mut command = self
            .m
            .command([command, "-v", "-w", self.at("").to_str().unwrap()]);
        command.envs(env.iter().copied());
        self.daemon = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    pub(super) fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.m.home().join("log")).unwrap_or_default()
    }

    /// Files and their contents, without our own.
    pub(super) fn tree(&self) -> BTreeMap<String, String> {
        fn walk(root: &Path, dir: &Path, out: &mut BTreeMap<String, String>) {
            for entry in fs::read_dir(dir).unwrap().flatten() {
                let path = entry.path();
                let name = path
                    .strip_prefix(root)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_string();
                match entry.file_type() {
                    _ if name.split('/').any(|part| part.starts_with(".mesync")) => {}
                    Ok(kind) if kind.is_dir() => walk(root, &path, out),
                    _ => drop(out.insert(
                        name,
                        String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned(),
                    )),
                }
            }
        }
        let mut out = BTreeMap::new();
        walk(&self.at(""), &self.at(""), &mut out);
        out
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(super) fn two() -> (S3em, Machine, Machine) {
    let server = S3em::start();
    let (one, two) = (Machine::new("one", &server), Machine::new("two", &server));
    (server, one, two)
}

pub(super) fn of(wants: &[(&str, &str)]) -> BTreeMap<String, String> {
    wants
        .iter()
        .map(|(name, content)| (name.to_string(), content.to_string()))
        .collect()
}

pub(super) fn stored(server: &S3em) -> BTreeMap<String, String> {
    server
        .files()
        .into_iter()
        .map(|(name, bytes)| (name, String::from_utf8_lossy(&bytes).into_owned()))
        .collect()
}

#[track_caller]
pub(super) fn wait_for(what: &str, machines: &[&Machine], mut is_true: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_true() {
        let logs = || {
            machines
                .iter()
                .map(|m| format!("{:?}\n{}", m.tree(), m.log()))
                .collect::<String>()
        };
        assert!(Instant::now() < end, "waited in vain: {what}\n{}", logs());
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
