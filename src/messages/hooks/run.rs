//! One run of a hook: the program, its message on standard input, its output in the log, its end.
//!
//! It does not decide what a failure means. A program that leaves its process group (setsid) is out of reach: only a
//! control group of the service manager catches it.

use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process_group};

use super::{Record, program, records_dir};
use crate::clock;
use crate::config::limits;
use crate::disk;
use crate::error::plain;
use crate::messages::plan::HookEnd;
use crate::messages::{Queue, announce};
use crate::wire::{self, Message};

/// Between TERM and KILL.
const TERM_TO_KILL: Duration = Duration::from_secs(5);
/// Variables that a hook does not get: they are secrets, or meant for us alone.
const PRIVATE: [&str; 6] =
    ["MESYNC_API_KEY", "MESYNC_MASTER_KEY", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// How a run went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ran {
    /// It ran, or could not; the record has the new number of attempts.
    Ended(Record, HookEnd),
    /// A run that an earlier daemon began is still going on.
    StillRunning,
    /// The record or its hook is gone.
    Gone,
}

/// What every run has in common.
pub struct Setup {
    pub base: PathBuf,
    pub timeout: Duration,
}

impl Setup {
    /// Runs the hook of a record to its end. `stopping`: the daemon wants to end; the hook gets a little time, then TERM.
    pub fn run(&self, record: &Record, stopping: &dyn Fn() -> bool) -> io::Result<Ran> {
        let dir = records_dir(&self.base);
        let path = dir.join(record.file_name());
        let file = match disk::open_regular(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Ran::Gone),
            other => other?,
        };
        // a hidden file in inbox/: its message is not accepted yet
        if disk::temporary(&Queue::Inbox.dir(&self.base).join(&record.message)).exists() {
            return Ok(Ran::StillRunning);
        }
        // the hook inherits the lock with its standard input, so it holds on though we are killed
        match file.try_lock() {
            Err(std::fs::TryLockError::WouldBlock) => return Ok(Ran::StillRunning),
            Err(std::fs::TryLockError::Error(e)) => return Err(e),
            Ok(()) => {}
        }
        let attempt = record.attempts.unwrap_or(0).saturating_add(1);
        let record = Record { attempts: Some(attempt), ..record.clone() };
        disk::rename(&path, &dir.join(record.file_name()))?;
        disk::sync_dir(&dir)?;
        let name = format!("hook={} id={} attempt={attempt}", record.kind, record.id());
        let end = match program(&self.base, &record.kind) {
            Err(why) => {
                log::warn!("{why} {name}");
                HookEnd::Exit(126)
            }
            Ok(None) => {
                log::warn!("the hook is gone {name}");
                HookEnd::Exit(127)
            }
            Ok(Some(program)) => match self.start(&program, file, &record) {
                Ok((child, output)) => self.watch(child, output, &name, stopping)?,
                Err(e) => {
                    log::warn!("cannot start {}: {} {name}", program.display(), plain(&e));
                    let passing = [libc::EAGAIN, libc::ENOMEM, libc::ETXTBSY, libc::EMFILE, libc::ENFILE];
                    if passing.contains(&e.raw_os_error().unwrap_or(0)) { HookEnd::NotStarted } else { HookEnd::Exit(126) }
                }
            },
        };
        Ok(Ran::Ended(record, end))
    }

    fn start(&self, program: &Path, message: File, record: &Record) -> io::Result<(Child, PipeReader)> {
        let text = disk::read_at_most(&records_dir(&self.base).join(record.file_name()), wire::MAX_MESSAGE)?;
        let own = announce::is_own(record);
        let parsed = if own { announce::read(&text) } else { Message::parse(&text).unwrap_or_default() };
        let (output, writer) = io::pipe()?;
        let mut command = Command::new(program);
        command.current_dir(&self.base).process_group(0).stdin(message).stdout(writer.try_clone()?).stderr(writer);
        for name in PRIVATE {
            command.env_remove(name);
        }
        command
            .env("MESYNC_BASE_DIR", &self.base)
            .env("MESYNC_ID", record.id().to_string())
            .env("MESYNC_TYPE", &record.kind)
            .env("MESYNC_SOURCE", parsed.source.unwrap_or_default())
            .env("MESYNC_PRIORITY", parsed.priority.name())
            .env("MESYNC_ATTEMPT", record.attempts.unwrap_or(0).to_string());
        match own {
            // it never was in the inbox
            true => command.env_remove("MESYNC_FILE"),
            false => command.env("MESYNC_FILE", Queue::Inbox.dir(&self.base).join(&record.message)),
        };
        Ok((command.spawn()?, output))
    }

    fn watch(&self, mut child: Child, output: PipeReader, name: &str, stopping: &dyn Fn() -> bool) -> io::Result<HookEnd> {
        let group = Pid::from_child(&child);
        let mut lines = Lines { name, line: Vec::new(), left: limits::HOOK_OUTPUT };
        let mut deadline = clock::monotonic() + self.timeout;
        let (mut hurried, mut timed_out, mut signal) = (false, false, Signal::TERM);
        let mut open = true;
        let status: ExitStatus = loop {
            if let Some(status) = child.try_wait()? {
                break status;
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
            if wait_for_output(&output, open, deadline)? {
                open = lines.read(&output)?;
            }
        };
        // whatever it left running in its group ends with it
        let _ = kill_process_group(group, Signal::KILL);
        while open && readable(&output, Duration::ZERO)? && lines.read(&output)? {}
        lines.print();
        let end = match (timed_out, status.code(), status.signal()) {
            (true, ..) => HookEnd::Timeout,
            (_, Some(code), _) => HookEnd::Exit(code),
            (_, None, signal) => HookEnd::Signal(signal.unwrap_or(0)),
        };
        match end {
            HookEnd::Exit(0) => log::debug!("hook is done {name}"),
            HookEnd::Timeout => log::warn!("hook was ended after {} {name}", clock::age(self.timeout)),
            HookEnd::Signal(n) => log::warn!("hook was ended by signal {n} {name}"),
            other => log::warn!("hook failed {name} end={other:?}"),
        }
        Ok(end)
    }
}

/// Waits for output, the deadline, or a short while, since not all kernels have a descriptor that becomes readable with the
/// end of a process. Returns whether there is output.
fn wait_for_output(output: &PipeReader, open: bool, deadline: Instant) -> io::Result<bool> {
    let step = deadline.saturating_duration_since(clock::monotonic()).min(Duration::from_millis(20));
    if !open {
        // nothing more to read: the poll is for its time only
        poll(&mut [], Some(&timespec(step)))?;
        return Ok(false);
    }
    readable(output, step)
}

fn readable(output: &PipeReader, time: Duration) -> io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(output.as_fd(), PollFlags::IN)];
    match poll(&mut fds, Some(&timespec(time))) {
        Err(rustix::io::Errno::INTR) => Ok(false),
        other => Ok(other? > 0),
    }
}

fn timespec(time: Duration) -> rustix::event::Timespec {
    rustix::event::Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) }
}

/// Logs output line by line, up to a limit; the rest is read and dropped, so that the hook does not block.
struct Lines<'a> {
    name: &'a str,
    line: Vec<u8>,
    left: usize,
}

impl Lines<'_> {
    /// Reads what is there; `false` at the end.
    fn read(&mut self, mut output: &PipeReader) -> io::Result<bool> {
        let mut buffer = [0; 8192];
        let n = match output.read(&mut buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(true),
            other => other?,
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
            log::warn!("output beyond {} bytes is dropped {}", limits::HOOK_OUTPUT, self.name);
        }
        self.left -= n.min(self.left);
        Ok(n > 0)
    }

    fn print(&mut self) {
        if !self.line.is_empty() {
            log::info!("{} {}", String::from_utf8_lossy(&self.line), self.name);
            self.line.clear();
        }
    }
}
