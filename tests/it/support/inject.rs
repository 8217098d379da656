//! Makes system calls of the real binary fail, one at a time and in order, with strace; for clients and for hubs.
//!
//! ```ignore
//! // every call of a command, from its start:
//! inject::every_call(&trace, inject::CALLS, &["ENOSPC", "EIO"], |fault| {
//!     prepare();
//!     let out = inject::wrap(&machine.command(&["start", "--once"]), fault).output().unwrap();
//!     check(fault, &out); // nothing is lost, the status is right, the next run heals
//! });
//! // every call of a process that runs already (a daemon, a hub), counted from now on in each of its threads:
//! inject::every_call(&trace, inject::CALLS, &["ENOSPC"], |fault| {
//!     let attached = inject::attach(world.hub_pid(), fault);
//!     work(); // until `attached.has_struck()`, or until everything is done
//!     drop(attached); // the fault is gone, the process runs on
//!     check(fault); // it has healed without a restart
//! });
//! ```
//!
//! strace counts each kind of call by itself, in each thread: with several threads one fault may strike once in each. It
//! counts only calls on `only`, if that names paths (exactly: strace knows no prefixes). A sweep over one kind of call ends
//! with the first number that struck nothing.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Calls that change the disk, or open a file.
pub const CALLS: &[&str] = &[
    "fsync",
    "fdatasync",
    "syncfs",
    "rename",
    "renameat2",
    "linkat",
    "unlink",
    "ftruncate",
    "write",
    "openat",
    "mkdir",
];

/// One call that fails.
#[derive(Debug, Clone)]
pub struct Fault {
    pub call: &'static str,
    /// As `ENOSPC`.
    pub error: &'static str,
    /// From 1.
    pub nth: u32,
    /// The call fails from then on, not once.
    pub for_ever: bool,
    /// Only calls on these paths count.
    pub only: Vec<PathBuf>,
    /// Where strace writes what it did.
    pub trace: PathBuf,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {}{} {}",
            self.call,
            self.nth,
            if self.for_ever { "+" } else { "" },
            self.error
        )
    }
}

impl Fault {
    pub fn new(call: &'static str, nth: u32, error: &'static str, trace: &Path) -> Fault {
        Fault {
            call,
            error,
            nth,
            for_ever: false,
            only: Vec::new(),
            trace: trace.into(),
        }
    }

    /// Whether a call has failed, as strace wrote down.
    pub fn has_struck(&self) -> bool {
        std::fs::read_to_string(&self.trace).is_ok_and(|text| text.contains("(INJECTED)"))
    }

    /// The calls that failed, for messages of tests.
    pub fn struck(&self) -> String {
        let text = std::fs::read_to_string(&self.trace).unwrap_or_default();
        text.lines()
            .filter(|line| line.contains("(INJECTED)"))
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn strace(&self) -> Command {
        let (nth, and_on) = (self.nth, if self.for_ever { "+" } else { "" });
        let mut strace = strace(
            self.call,
            &format!("error={}:when={nth}{and_on}", self.error),
            &self.trace,
        );
        for path in &self.only {
            strace.arg("-P").arg(path);
        }
        strace
    }
}

/// strace that does something at a call, and writes the calls to a file.
fn strace(call: &str, what: &str, trace: &Path) -> Command {
    let _ = std::fs::remove_file(trace);
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-qq", "-s", "200", "-y", "-o"])
        .arg(trace)
        .args(["-e", &format!("trace=?{call}"), "-e", "signal=none"])
        .args(["-e", &format!("inject=?{call}:{what}")]);
    strace
}

/// Whether strace is here; a word if it is not.
pub fn is_available() -> bool {
    let there = Command::new("strace").arg("-V").output().is_ok();
    assert!(there || std::env::var_os("CI").is_none(), "install strace");
    if !there {
        println!("SKIPPED: there is no strace; install it to run this test");
    }
    there
}

/// The same command with the fault in it.
pub fn wrap(plain: &Command, fault: &Fault) -> Command {
    under(fault.strace(), plain)
}

/// The same command, killed at the `nth` call of a kind.
pub fn kill_at(plain: &Command, call: &str, nth: u32, trace: &Path) -> Command {
    under(
        strace(call, &format!("signal=KILL:when={nth}"), trace),
        plain,
    )
}

/// Runs a command under strace.
fn under(mut strace: Command, plain: &Command) -> Command {
    strace
        .arg(plain.get_program())
        .args(plain.get_args())
        .env_clear()
        .stdin(Stdio::null());
    strace.envs(
        plain
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    strace
}

/// What runs a program each of whose calls on a path takes so many milliseconds more.
pub fn slow(calls: &str, path: &Path, millis: u32) -> Vec<String> {
    let inject = format!("inject={calls}:delay_exit={}", millis * 1000);
    let path = path.to_str().unwrap();
    [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-P",
        path,
        "-e",
        &inject,
    ]
    .map(String::from)
    .to_vec()
}

/// A fault in a process that runs; it is gone when this is dropped.
pub struct Attached(Child);

/// Returns when every thread of the process is traced.
#[track_caller]
pub fn attach(pid: u32, fault: &Fault) -> Attached {
    attach_strace(pid, fault.strace())
}

/// Writes the calls of a process that runs to `trace`, until what it returns is dropped; none of them fails.
#[track_caller]
pub fn record(pid: u32, calls: &str, trace: &Path) -> Attached {
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-qq", "-y", "-e", &format!("trace={calls}"), "-o"])
        .arg(trace);
    attach_strace(pid, strace)
}

#[track_caller]
fn attach_strace(pid: u32, mut strace: Command) -> Attached {
    let child = strace
        .args(["-p", &pid.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let attached = Attached(child);
    let end = Instant::now() + Duration::from_secs(60);
    while !is_traced(pid) {
        assert!(
            Instant::now() < end,
            "strace does not attach to process {pid}"
        );
        std::thread::park_timeout(Duration::from_millis(2));
    }
    attached
}

fn is_traced(pid: u32) -> bool {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    let traced = |task: std::fs::DirEntry| {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        // a thread that has just ended has no status
        status.is_empty()
            || status.lines().any(|l| {
                l.strip_prefix("TracerPid:")
                    .is_some_and(|pid| pid.trim() != "0")
            })
    };
    tasks.flatten().all(traced)
}

impl Drop for Attached {
    fn drop(&mut self) {
        // it detaches and leaves the process as it is
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.0),
            rustix::process::Signal::TERM,
        );
        let _ = self.0.wait();
    }
}

/// Tries each call of each kind with each error, until one number has struck nothing; returns how many have struck.
pub fn every_call(
    trace: &Path,
    calls: &[&'static str],
    errors: &[&'static str],
    mut attempt: impl FnMut(&Fault),
) -> u32 {
    let sweeps = calls
        .iter()
        .flat_map(|call| errors.iter().map(move |error| (call, error)));
    told(
        sweeps
            .map(|(call, error)| sweep(call, |_| error, trace, 1, &mut attempt))
            .sum(),
    )
}

/// As [`every_call`], but each call fails once: the errors take turns.
pub fn each_call_once(
    trace: &Path,
    calls: &[&'static str],
    errors: &[&'static str],
    mut attempt: impl FnMut(&Fault),
) -> u32 {
    let turn = |i: usize| move |nth: u32| errors[(i + nth as usize) % errors.len()];
    told(
        calls
            .iter()
            .enumerate()
            .map(|(i, call)| sweep(call, turn(i), trace, 1, &mut attempt))
            .sum(),
    )
}

/// Tries one kind of call: the first, and every `step`th after it, until one has struck nothing.
pub fn sweep(
    call: &'static str,
    error: impl Fn(u32) -> &'static str,
    trace: &Path,
    step: usize,
    attempt: &mut impl FnMut(&Fault),
) -> u32 {
    let strikes = |nth: &u32| {
        let fault = Fault::new(call, *nth, error(*nth), trace);
        attempt(&fault);
        fault.has_struck()
    };
    (1..).step_by(step).take_while(strikes).count() as u32
}

fn told(struck: u32) -> u32 {
    println!("{struck} calls failed");
    struck
}
