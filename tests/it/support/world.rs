//! A hub and machines as real processes with scratch directories, ended with the test.
//!
//! It waits for conditions, never for time to pass.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A free port, below those that the system gives to outgoing connections: one of those could have
/// it when the hub starts again, and a connection attempt to an unused port could be connected to
/// itself. It is reserved until this process ends, also while no hub runs, so that no other test
/// takes it.
pub fn free_port() -> u16 {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    loop {
        let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let port = 12_000 + ((std::process::id().wrapping_mul(97) + n) % 20_000) as u16;
        let name = SocketAddr::from_abstract_name(format!("mesync-test-{port}")).unwrap();
        let Ok(taken) = UnixListener::bind_addr(&name) else {
            continue;
        };
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            std::mem::forget(taken);
            return port;
        }
    }
}

/// Waits until something is true; fails with `what` and the logs after two minutes.
#[track_caller]
pub fn wait_for(what: &str, world: &World, mut is_true: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !is_true() {
        assert!(
            Instant::now() < end,
            "waited in vain: {what}\n{}",
            world.logs()
        );
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A scratch directory with one hub and any number of machines that use it.
pub struct World {
    pub dir: tempfile::TempDir,
    pub port: u16,
    hub: Option<Child>,
    /// The program that is the hub.
    pub program: PathBuf,
    /// Where the hub listens.
    pub listen: &'static str,
    /// What starts the hub, as `prlimit` does: it becomes the hub, so the process id stays.
    pub wrap: Vec<String>,
    /// More arguments for `mesync serve`.
    pub serve: Vec<String>,
    pub hub_env: Vec<(String, String)>,
}

/// One client: a base directory and a name.
pub struct Machine {
    pub name: String,
    pub base: PathBuf,
    log: PathBuf,
    /// `server_url`.
    pub url: String,
    child: Option<Child>,
    pub program: PathBuf,
    pub env: Vec<(String, String)>,
    /// What starts its commands, as `setpriv` does: it becomes the command.
    pub wrap: Vec<String>,
}

pub fn binary() -> PathBuf {
    std::env::var_os("MESYNC_TEST_BINARY").map_or(env!("CARGO_BIN_EXE_mesync").into(), Into::into)
}

fn command(program: &Path, home: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("HOME", home)
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.stdin(Stdio::null());
    command
}

fn append(path: &Path) -> File {
    File::options()
        .create(true)
        .append(true)
        .open(path)
        .unwrap()
}

/// Writes a program. Another process writes it: a child that another test forks holds the files that this process has open
/// for writing until it executes its own program, and one that is open for writing is not run (ETXTBSY).
pub fn write_program(path: &Path, text: &str) {
    let script = r#"printf %s "$2" >"$1" && chmod 755 "$1""#;
    let status = Command::new("/bin/sh")
        .args(["-c", script, "sh"])
        .args([path.as_os_str(), text.as_ref()])
        .status();
    assert!(status.unwrap().success(), "{}", path.display());
}

impl World {
    pub fn new() -> World {
        let port = free_port();
        let dir = tempfile::tempdir().unwrap();
        World {
            dir,
            port,
            hub: None,
            program: binary(),
            listen: "127.0.0.1",
            wrap: Vec::new(),
            serve: Vec::new(),
            hub_env: Vec::new(),
        }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn hub_dir(&self) -> PathBuf {
        self.dir.path().join("hub-data")
    }

    /// `mesync ARGS` as the user that runs the hub.
    pub fn hub_command(&self) -> Command {
        let mut command = command(&self.program, self.dir.path());
        command
            .env("MESYNC_BASE_DIR", self.dir.path().join("hub-base"))
            .env("MESYNC_DATA_DIR", self.hub_dir());
        command
            .env("MESYNC_HOST_ID", "hub")
            .env("MESYNC_SERVER_URL", self.url());
        command.envs(self.hub_env.iter().cloned());
        command
    }

    /// What the command prints, without the line end.
    #[track_caller]
    pub fn hub_ok(&self, args: &[&str]) -> String {
        let out = self.hub_command().args(args).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{args:?}: {said}");
        String::from_utf8(out.stdout).unwrap().trim().to_string()
    }

    /// Starts the hub; returns once it reports that it listens, because another program may respond
    /// at its port.
    #[track_caller]
    pub fn start_hub(&mut self) {
        let path = self.dir.path().join("hub.log");
        let starts = |path: &Path| {
            std::fs::read_to_string(path).map_or(0, |text| text.matches("hub started: ").count())
        };
        let (log, before) = (append(&path), starts(&path));
        let plain = self.hub_command();
        let mut command = Command::new(
            self.wrap
                .first()
                .map_or(plain.get_program(), |w| w.as_ref()),
        );
        if !self.wrap.is_empty() {
            command.args(&self.wrap[1..]).arg(plain.get_program());
        }
        command
            .env_clear()
            .envs(
                plain
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .stdin(Stdio::null());
        command
            .args([
                "serve",
                "-v",
                "--listen",
                &format!("{}:{}", self.listen, self.port),
            ])
            .args(&self.serve);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let mut hub = command.spawn().unwrap();
        let is_taken = || {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let last = text.lines().last().unwrap_or_default();
            last.contains("address already in use")
        };
        wait_for("the hub listens", self, || {
            match hub.try_wait().unwrap() {
                // a child of another test holds a listener of this one until it executes its program
                Some(_) if is_taken() => hub = command.spawn().unwrap(),
                ended => assert!(
                    ended.is_none(),
                    "the hub has ended: {ended:?}\n{}",
                    self.logs()
                ),
            }
            starts(&path) > before
        });
        self.hub = Some(hub);
    }

    pub fn hub_pid(&self) -> u32 {
        self.hub.as_ref().unwrap().id()
    }

    pub fn kill_hub(&mut self) {
        if let Some(mut hub) = self.hub.take() {
            hub.kill().unwrap();
            hub.wait().unwrap();
        }
    }

    /// SIGTERM, and its exit status.
    pub fn stop_hub(&mut self) -> Option<i32> {
        terminate(&mut self.hub.take()?)
    }

    pub fn machine(&self, name: &str) -> Machine {
        let base = self.dir.path().join(name);
        Machine {
            name: name.into(),
            log: base.with_extension("log"),
            base,
            url: self.url(),
            child: None,
            program: binary(),
            env: Vec::new(),
            wrap: Vec::new(),
        }
    }

    /// The ends of all logs; LOG_LINES says how much of each.
    pub fn logs(&self) -> String {
        let most = std::env::var("LOG_LINES")
            .ok()
            .and_then(|n| n.parse().ok())
            .unwrap_or(30);
        let mut out = String::new();
        for entry in std::fs::read_dir(self.dir.path()).unwrap().flatten() {
            if entry.path().extension().is_some_and(|e| e == "log") {
                let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                out += &format!(
                    "--- {}\n{}\n",
                    entry.file_name().display(),
                    lines[lines.len().saturating_sub(most)..].join("\n")
                );
            }
        }
        out
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill_hub();
    }
}

impl Machine {
    /// `mesync ARGS` on this machine.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = command(&self.program, self.base.parent().unwrap());
        if let Some((first, more)) = self.wrap.split_first() {
            let plain = command;
            command = Command::new(first);
            command
                .env_clear()
                .envs(
                    plain
                        .get_envs()
                        .filter_map(|(name, value)| Some((name, value?))),
                )
                .stdin(Stdio::null());
            command.args(more).arg(plain.get_program());
        }
        command
            .env("MESYNC_BASE_DIR", &self.base)
            .env("MESYNC_HOST_ID", &self.name)
            .env("MESYNC_SERVER_URL", &self.url);
        command.envs(self.env.iter().cloned()).args(args);
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command that must succeed; its standard output without the last line end.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        let out = self.run(args);
        let logs = std::fs::read_to_string(self.base.with_file_name("hub.log")).unwrap_or_default();
        assert!(
            out.status.success(),
            "{args:?}: {} {}\n{logs}",
            out.status,
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8(out.stdout)
            .unwrap()
            .trim_end()
            .to_string()
    }

    /// Starts the daemon.
    pub fn start(&mut self) {
        self.start_with(&["start", "-v"]);
    }

    /// Starts what runs until it is stopped.
    pub fn start_with(&mut self, args: &[&str]) {
        let command = self.command(args);
        self.spawn(command);
    }

    /// A command of this machine, perhaps wrapped in another.
    pub fn spawn(&mut self, mut command: Command) {
        let log = append(&self.log);
        self.child = Some(
            command
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap(),
        );
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Its threads whose names begin so.
    pub fn threads(&self, beginning: &str) -> usize {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm"));
        tasks
            .flatten()
            .filter_map(|task| name(task).ok())
            .filter(|name| name.starts_with(beginning))
            .count()
    }

    pub fn is_running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|c| c.try_wait().unwrap().is_none())
    }

    /// The exit status, if it has ended.
    pub fn exited(&mut self) -> Option<i32> {
        self.child.as_mut()?.try_wait().unwrap()?.code()
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGTERM, and its exit status.
    pub fn stop(&mut self) -> Option<i32> {
        terminate(&mut self.child.take()?)
    }

    /// SIGTERM without waiting.
    pub fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(self.child.as_ref().unwrap());
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn dir(&self, queue: &str) -> PathBuf {
        self.base.join(queue)
    }

    /// Names in a queue that count, sorted.
    pub fn names(&self, queue: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.dir(queue)) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        names.retain(|n| !n.starts_with('.'));
        names.sort();
        names
    }

    /// Whole messages of a queue, in the order of their names.
    pub fn messages(&self, queue: &str) -> Vec<serde_json::Value> {
        let read = |name: &String| {
            serde_json::from_slice(&std::fs::read(self.dir(queue).join(name)).ok()?).ok()
        };
        self.names(queue).iter().filter_map(read).collect()
    }

    /// Writes a hook: the body of a shell script.
    pub fn hook(&self, kind: &str, body: &str) {
        std::fs::create_dir_all(self.dir("hooks")).unwrap();
        // a program that runs cannot be written to (ETXTBSY)
        let temporary = self.base.join(format!("hook-{kind}"));
        write_program(&temporary, &format!("#!/bin/sh\n{body}\n"));
        std::fs::rename(&temporary, self.dir("hooks").join(kind)).unwrap();
    }

    /// A plain script's way to send: write, then rename into the outbox.
    pub fn drop_file(&self, name: &str, text: &str) {
        std::fs::create_dir_all(self.dir("outbox")).unwrap();
        let temporary = self.base.join(format!("script-{name}"));
        std::fs::write(&temporary, text).unwrap();
        std::fs::rename(&temporary, self.dir("outbox").join(name)).unwrap();
    }

    /// Lines `epoch seq id` of the log of received messages.
    pub fn seen(&self) -> Vec<String> {
        let dir = self.base.join("state/seen");
        let mut days: Vec<PathBuf> = std::fs::read_dir(dir)
            .map(|d| d.flatten().map(|e| e.path()).collect())
            .unwrap_or_default();
        days.sort();
        days.iter()
            .flat_map(|d| {
                std::fs::read_to_string(d)
                    .unwrap()
                    .lines()
                    .map(str::to_string)
                    .collect::<Vec<_>>()
            })
            .collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

fn terminate(child: &mut Child) -> Option<i32> {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    child.wait().unwrap().code()
}

/// A small generator of numbers for tests whose seed is printed (splitmix64).
pub struct Random(pub u64);

impl Random {
    /// From `SEED`, else from the clock; says which.
    pub fn seeded(test: &str) -> Random {
        let given = std::env::var("SEED").ok().and_then(|s| s.parse().ok());
        let now = || {
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_nanos() as u64
        };
        let seed = given.unwrap_or_else(now);
        println!("{test}: SEED={seed}");
        Random(seed)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}
