//! One run of a hook: the program, its message on standard input, its output in the log, its end.
//!
//! It does not decide what a failure means. A program that leaves its process group (setsid) is out
//! of reach: only a control group of the service manager ends it.
//!
//! A hook outlives a killed daemon, and the next daemon must not run the same hook beside it. A
//! file names its process (`Running`). The lock on the record covers the time until that file is
//! written: the hook inherits it with its standard input. So do processes that the hook leaves
//! behind; therefore the lock is released at the hook's end, and means nothing once the process in
//! the file has ended.

use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

use super::own;
use super::process::{Running, members};
use super::{HookRecord, RecordState, cannot_start, program, records_dir};
use crate::clock;
use crate::config::limits;
use crate::disk;
use crate::messages::Queue;
use crate::messages::plan::HookEnd;
use crate::wire::{self, Message};

/// Time between TERM and KILL.
const TERM_TO_KILL: Duration = Duration::from_secs(5);
/// Pause between two attempts to run a record that cannot run now.
const RUNNING_PAUSE: Duration = Duration::from_secs(5);
/// Variables that a hook does not get: they are secrets, or meant for this program only.
const PRIVATE: [&str; 6] = [
    "MESYNC_API_KEY",
    "MESYNC_MASTER_KEY",
    "CREDENTIALS_DIRECTORY",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
];

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunResult {
    /// The hook ran, or could not; the record has the new number of runs.
    Ended(HookRecord, HookEnd),
    /// The hook cannot run now, and did not: a run that an earlier daemon began has not ended, or
    /// the record cannot be written.
    Later(Duration),
    /// The record or its hook is gone.
    Gone,
}

/// The parameters common to all runs.
pub struct HookRunner {
    pub base: PathBuf,
    pub timeout: Duration,
}

impl HookRunner {
    /// Runs the hook of a record to its end. `stopping`: the daemon is stopping; the hook gets a
    /// little time, then TERM.
    pub fn run(&self, record: &HookRecord, stopping: &dyn Fn() -> bool) -> io::Result<RunResult> {
        let dir = records_dir(&self.base);
        let path = dir.join(record.file_name());
        let file = match disk::open_regular(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(RunResult::Gone),
            other => other?,
        };
        // the file in inbox/ is hidden: its message is not accepted yet
        if disk::temporary(&Queue::Inbox.dir(&self.base).join(&record.message)).exists() {
            return Ok(RunResult::Later(RUNNING_PAUSE));
        }
        let before = Running::read(&self.base, &record.kind);
        if let Some(running) = before.as_ref().filter(|running| running.is_alive()) {
            running.end_if_overdue(TERM_TO_KILL);
            return Ok(RunResult::Later(RUNNING_PAUSE));
        }
        match file.try_lock() {
            // held by a process that the hook has left behind
            Err(std::fs::TryLockError::WouldBlock) if before.is_some() => {}
            Err(std::fs::TryLockError::WouldBlock) => return Ok(RunResult::Later(RUNNING_PAUSE)),
            Err(std::fs::TryLockError::Error(e)) => return Err(e),
            Ok(()) => {}
        }
        let attempt = record.runs().unwrap_or(0).saturating_add(1);
        let record = HookRecord {
            state: RecordState::Pending(attempt),
            ..record.clone()
        };
        match disk::rename(&path, &record.path(&self.base)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(RunResult::Gone),
            other => other?,
        }
        disk::sync_dir(&dir)?;
        // otherwise a daemon that is killed in between would leave the process of another run
        Running::forget(&self.base, &record.kind);
        let name = format!("hook={} id={} attempt={attempt}", record.kind, record.id());
        let end = match program(&self.base, &record.kind) {
            Err(why) => {
                log::warn!("{why} {name}");
                HookEnd::Refused
            }
            Ok(None) => {
                log::warn!("hook was removed {name}");
                HookEnd::Gone
            }
            Ok(Some(program)) => self.run_program(&program, &file, &record, &name, stopping),
        };
        Ok(RunResult::Ended(record, end))
    }

    fn run_program(
        &self,
        program: &Path,
        file: &File,
        record: &HookRecord,
        name: &str,
        stopping: &dyn Fn() -> bool,
    ) -> HookEnd {
        let end = match file
            .try_clone()
            .and_then(|message| self.start(program, message, record))
        {
            Ok((child, output)) => {
                if let Err(e) = Running::write(
                    &self.base,
                    &record.kind,
                    Pid::from_child(&child),
                    self.timeout,
                ) {
                    log::debug!("cannot record the process of a hook: {e} {name}");
                }
                let end = self.watch(child, output, name, stopping);
                Running::forget(&self.base, &record.kind);
                end
            }
            Err(e) => {
                log::warn!("{} {name}", cannot_start(program, &e));
                HookEnd::NotStarted(e.raw_os_error().unwrap_or(0))
            }
        };
        // releases the lock for every process that has inherited it
        if let Err(e) = file.unlock() {
            log::debug!("cannot unlock a record: {e} {name}");
        }
        end
    }

    fn start(
        &self,
        program: &Path,
        message: File,
        record: &HookRecord,
    ) -> io::Result<(Child, PipeReader)> {
        let text = disk::read_at_most(&record.path(&self.base), wire::MAX_MESSAGE)?;
        let own = own::is_own(record);
        let parsed = if own {
            own::read(&text)
        } else {
            Message::parse(&text).unwrap_or_default()
        };
        let (output, writer) = io::pipe()?;
        let mut command = Command::new(program);
        command
            .current_dir(&self.base)
            .process_group(0)
            .stdin(message)
            .stdout(writer.try_clone()?)
            .stderr(writer);
        for name in PRIVATE {
            command.env_remove(name);
        }
        command
            .env("MESYNC_BASE_DIR", &self.base)
            .env("MESYNC_ID", record.id().to_string())
            .env("MESYNC_TYPE", &record.kind)
            .env(
                "MESYNC_SOURCE",
                parsed.source.as_deref().unwrap_or_default(),
            )
            .env("MESYNC_PRIORITY", parsed.priority.name())
            .env("MESYNC_ATTEMPT", record.runs().unwrap_or(0).to_string())
            .env(wire::HOPS_VARIABLE, parsed.hops().to_string());
        if own {
            // the message was never in the inbox
            command.env_remove("MESYNC_FILE")
        } else {
            command.env(
                "MESYNC_FILE",
                Queue::Inbox.dir(&self.base).join(&record.message),
            )
        };
        Ok((command.spawn()?, output))
    }

    fn watch(
        &self,
        mut child: Child,
        output: PipeReader,
        name: &str,
        stopping: &dyn Fn() -> bool,
    ) -> HookEnd {
        let group = Pid::from_child(&child);
        let mut lines = OutputLines {
            name,
            line: Vec::new(),
            left: limits::HOOK_OUTPUT_BYTES,
        };
        let mut deadline = clock::monotonic() + self.timeout;
        let (mut hurried, mut timed_out, mut signal) = (false, false, Signal::TERM);
        let mut open = true;
        let status: Option<ExitStatus> = loop {
            match child.try_wait() {
                Ok(None) => {}
                Ok(status) => break status,
                // the system reaps children itself if the client was started with SIGCHLD ignored
                Err(e) => {
                    log::warn!("cannot tell how the hook ended: {e} {name}");
                    break None;
                }
            }
            let now = clock::monotonic();
            if stopping() && !hurried {
                hurried = true;
                deadline = deadline.min(now + TERM_TO_KILL);
            }
            if now >= deadline {
                timed_out |= !hurried;
                let _ = kill_process_group(group, signal);
                (signal, deadline) = (Signal::KILL, now + TERM_TO_KILL);
            }
            if wait_for_output(&output, open, deadline) {
                open = lines.read(&output);
            }
        };
        self.end_group(group, !timed_out && !hurried, name);
        // only as much as is kept: a process that the hook left behind may print forever
        while open && lines.left > 0 && readable(&output, Duration::ZERO) {
            open = lines.read(&output);
        }
        lines.print();
        let end = match (
            timed_out,
            status.and_then(|s| s.code()),
            status.and_then(|s| s.signal()),
        ) {
            (true, ..) => HookEnd::Timeout,
            (_, Some(code), _) => HookEnd::Exit(code),
            (_, None, signal) => HookEnd::Signal(signal.unwrap_or(0)),
        };
        match end {
            HookEnd::Exit(0) => log::debug!("hook is done {name}"),
            HookEnd::Timeout => {
                log::warn!("hook timed out after {} {name}", clock::age(self.timeout))
            }
            HookEnd::Signal(n) => log::warn!("hook was killed by signal {n} {name}"),
            other => log::warn!("hook failed {name} end={other:?}"),
        }
        end
    }

    /// Ends all processes that the hook left in its group.
    fn end_group(&self, group: Pid, ended_by_itself: bool, name: &str) {
        let left = if ended_by_itself && test_kill_process_group(group).is_ok() {
            members(group)
        } else {
            Vec::new()
        };
        let _ = kill_process_group(group, Signal::KILL);
        if let Some(first) = left.first() {
            let more = if left.len() > 1 {
                format!(" and {} more", left.len() - 1)
            } else {
                String::new()
            };
            log::warn!(
                "killed what the hook left running in its process group: {first}{more}; to keep it, start it with setsid {name}"
            );
        }
    }
}

/// Waits for output, the deadline, or a short time, because not every kernel has a descriptor that
/// becomes readable at the end of a process. Returns whether there is output.
fn wait_for_output(output: &PipeReader, open: bool, deadline: Instant) -> bool {
    let step = deadline
        .saturating_duration_since(clock::monotonic())
        .min(Duration::from_millis(20));
    if open {
        return readable(output, step);
    }
    // no output is left: poll only waits
    let _ = poll(&mut [], Some(&timespec(step)));
    false
}

fn readable(output: &PipeReader, time: Duration) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(output.as_fd(), PollFlags::IN)];
    // an error counts as no output: the loop waits for the end of the process in any case
    poll(&mut fds, Some(&timespec(time))).is_ok_and(|ready| ready > 0)
}

fn timespec(time: Duration) -> rustix::event::Timespec {
    rustix::event::Timespec {
        tv_sec: time.as_secs() as i64,
        tv_nsec: i64::from(time.subsec_nanos()),
    }
}

/// Logs output line by line, up to a limit; the rest is read and dropped, so that the hook does not
/// block.
struct OutputLines<'a> {
    name: &'a str,
    line: Vec<u8>,
    left: usize,
}

impl OutputLines<'_> {
    /// Reads the available bytes; `false` at the end.
    fn read(&mut self, mut output: &PipeReader) -> bool {
        let mut buffer = [0; 8192];
        let n = match output.read(&mut buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return true,
            Err(_) => return false,
            Ok(n) => n,
        };
        for byte in &buffer[..n.min(self.left)] {
            if *byte == b'\n' {
                self.print();
            } else {
                self.line.push(*byte);
            }
        }
        if self.left > 0 && n >= self.left {
            self.print();
            log::warn!(
                "output beyond {} bytes is dropped {}",
                limits::HOOK_OUTPUT_BYTES,
                self.name
            );
        }
        self.left -= n.min(self.left);
        n > 0
    }

    fn print(&mut self) {
        if !self.line.is_empty() {
            log::info!("{} {}", String::from_utf8_lossy(&self.line), self.name);
            self.line.clear();
        }
    }
}
