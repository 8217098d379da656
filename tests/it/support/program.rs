//! What the tests of the whole program share: a scratch home, and the real binary run in it.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One machine: a home of its own, and no setting from outside.
pub struct Mesync {
    home: tempfile::TempDir,
    host: String,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Mesync {
    pub fn new() -> Mesync {
        Mesync::named("machine-1")
    }

    pub fn named(host: &str) -> Mesync {
        Mesync {
            home: tempfile::tempdir().unwrap(),
            host: host.to_string(),
        }
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn base(&self) -> PathBuf {
        self.home.path().join("base")
    }

    /// The binary with this machine's environment; standard input is empty.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mesync"));
        command
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command
            .env("HOME", self.home())
            .env("MESYNC_BASE_DIR", self.base())
            .env("MESYNC_HOST_ID", &self.host)
            .env("TZ", "UTC");
        command.args(args).stdin(Stdio::null());
        command
    }

    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        ran(&mut self.command(args))
    }

    /// Runs what must succeed, and gives its output without the last line end.
    #[track_caller]
    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let ran = self.run(args);
        assert_eq!(ran.status, 0, "{ran:?}");
        ran.out.trim_end_matches('\n').to_string()
    }

    /// With something on standard input.
    pub fn feed<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>, input: &[u8]) -> Ran {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // the program may refuse before it has read all
        let _ = child.stdin.take().unwrap().write_all(input);
        Ran::from(child.wait_with_output().unwrap())
    }

    /// Writes a file below the base directory.
    pub fn put(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.base().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The names in a directory below the base directory, sorted.
    pub fn names(&self, dir: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.base().join(dir)) else {
            return Vec::new();
        };
        let mut names: Vec<_> = entries
            .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

pub fn ran(command: &mut Command) -> Ran {
    Ran::from(command.output().unwrap())
}

impl From<std::process::Output> for Ran {
    fn from(output: std::process::Output) -> Ran {
        Ran {
            // a signal counts as -1: no test wants one
            status: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    #[track_caller]
    pub fn check(&self, status: i32, err: &str) {
        assert!(
            self.status == status && self.err.contains(err),
            "wanted {status} and {err:?}: {self:?}"
        );
    }

    /// The lines of the output as JSON.
    #[track_caller]
    pub fn json(&self) -> Vec<serde_json::Value> {
        self.out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    }
}
