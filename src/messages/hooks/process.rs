//! The process that runs the hook of a type: its identity in `state/hooks/.TYPE.running`, for a
//! daemon that did not start it.
//!
//! Process ids are reused. With its start time and the boot, an id names one process only, so a
//! process that the hook left behind, and that inherited the hook's open files, is never taken for
//! the hook.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::records_dir;
use crate::clock;
use crate::disk;

/// A process as `/proc/PID/stat` has it (proc(5)).
struct ProcessStat {
    name: String,
    state: char,
    group: i32,
    /// In clock ticks since the boot.
    start: u64,
}

fn stat(pid: &str) -> Option<ProcessStat> {
    let bytes = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    // the name may contain any character, including a parenthesis
    let (head, fields) = text.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    Some(ProcessStat {
        name: head.split_once('(')?.1.to_string(),
        state: fields.first()?.chars().next()?,
        group: fields.get(2)?.parse().ok()?,
        start: fields.get(19)?.parse().ok()?,
    })
}

/// The process of a hook.
#[derive(Debug, PartialEq, Eq)]
pub struct Running {
    boot: String,
    pid: i32,
    start: u64,
    /// Seconds since the boot.
    deadline: u64,
}

impl Running {
    fn path(base: &Path, kind: &str) -> PathBuf {
        records_dir(base).join(format!(".{kind}.running"))
    }

    /// Records the process that was just started. Not synced: after a crash of the machine it does
    /// not run.
    pub fn write(base: &Path, kind: &str, pid: Pid, timeout: Duration) -> io::Result<()> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, "/proc is not readable");
        let pid = pid.as_raw_nonzero().get();
        let start = stat(&pid.to_string()).ok_or_else(missing)?.start;
        let boot = clock::boot_id().ok_or_else(missing)?;
        let deadline = (clock::uptime() + timeout).as_secs();
        let text = format!("{boot} {pid} {start} {deadline}\n");
        disk::write_temporary(&Running::path(base, kind), text.as_bytes(), 0o600).map(drop)
    }

    pub fn read(base: &Path, kind: &str) -> Option<Running> {
        let bytes = disk::read_at_most(&Running::path(base, kind), 200).ok()?;
        let text = std::str::from_utf8(&bytes).ok()?.strip_suffix('\n')?;
        let mut parts = text.split(' ');
        Some(Running {
            boot: parts.next()?.to_string(),
            pid: parts.next()?.parse().ok().filter(|pid| *pid > 1)?,
            start: parts.next()?.parse().ok()?,
            deadline: parts.next()?.parse().ok()?,
        })
    }

    pub fn forget(base: &Path, kind: &str) {
        // a file that remains names a process that no longer exists
        let _ = std::fs::remove_file(Running::path(base, kind));
    }

    pub fn is_alive(&self) -> bool {
        let same = |s: ProcessStat| s.start == self.start && !"ZX".contains(s.state);
        clock::boot_id().is_some_and(|boot| boot == self.boot)
            && stat(&self.pid.to_string()).is_some_and(same)
    }

    /// Ends the process once its time is over: TERM, and KILL after `grace`.
    pub fn end_if_overdue(&self, grace: Duration) {
        let over = clock::uptime().checked_sub(Duration::from_secs(self.deadline));
        let (Some(over), Some(pid)) = (over, Pid::from_raw(self.pid)) else {
            return;
        };
        let _ = kill_process_group(
            pid,
            if over < grace {
                Signal::TERM
            } else {
                Signal::KILL
            },
        );
    }
}

/// Names of the living processes of a group.
pub fn members(group: Pid) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
    let group = group.as_raw_nonzero().get();
    pids.filter_map(|pid| stat(&pid))
        .filter(|s| s.group == group && !"ZX".contains(s.state))
        .map(|s| s.name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    #[test]
    fn a_process_is_known_again_and_one_that_has_ended_or_another_with_its_number_is_not() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(records_dir(dir.path())).unwrap();
        let mut child = Command::new("sleep")
            .arg("1000")
            .process_group(0)
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        Running::write(dir.path(), "t", pid, Duration::from_secs(3600)).unwrap();
        let running = Running::read(dir.path(), "t").unwrap();
        assert!(running.is_alive());
        assert!(
            !Running {
                start: running.start + 1,
                boot: running.boot.clone(),
                ..running
            }
            .is_alive()
        );
        assert!(
            !Running {
                boot: "another".into(),
                ..running
            }
            .is_alive()
        );
        assert_eq!(members(pid), ["sleep"]);
        running.end_if_overdue(Duration::from_secs(5));
        assert!(child.try_wait().unwrap().is_none(), "its time is not over");
        Running {
            deadline: 0,
            boot: running.boot.clone(),
            ..running
        }
        .end_if_overdue(Duration::from_secs(0));
        // a zombie until its parent waits for it
        while running.is_alive() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!running.is_alive() && members(pid).is_empty());
        Running::forget(dir.path(), "t");
        assert_eq!(Running::read(dir.path(), "t"), None);
    }
}
