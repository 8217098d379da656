//! Writes the status of a directory for `mesync status`, and handles requests of users.
//!
//! It writes only when something has changed: an idle client writes nothing.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use crate::clock;
use crate::config::watch::WatchSettings;
use crate::error::Error;
use crate::files::directory::Directory;
use crate::files::engine::traits::{DeleteToken, State};
use crate::files::stats::{LONG_WAIT, NAMED, Notification};
use crate::files::status::{DirectoryCondition, DirectoryStatus, Examples, NamedPath, StatusFiles};
use crate::files::tree::scan::Example;
use crate::files::watch::WatchCounters;
use crate::logger::counted;

/// The interval between two writes while the directory is being synced.
const STATUS_WRITE_INTERVAL: Duration = Duration::from_secs(1);
/// Held deletes are reported after this time even if work on other paths has not ended.
const HELD_UNTOLD_MAX: Duration = Duration::from_secs(10);

/// Between two log lines about a first sync that lasts.
const FIRST_SYNC_INTERVAL: Duration = Duration::from_secs(10);

/// See the module documentation.
pub struct Reporter {
    files: StatusFiles,
    last: DirectoryStatus,
    named: String,
    held: Vec<DeleteToken>,
    /// When the guard began to hold deletes; they may not be reported yet.
    held_since: Option<Instant>,
    /// When the status was last written; `None`: the file is not up to date.
    said: Option<Instant>,
    /// When the progress of the first sync of this process was logged last; `None`: it is done.
    first_sync: Option<Instant>,
}

impl Reporter {
    pub fn new(files: StatusFiles, watch: &WatchSettings, server: &str) -> Reporter {
        let last = DirectoryStatus {
            dir: watch.path.to_string_lossy().into_owned(),
            server: server.into(),
            remote: watch.remote.clone(),
            mode: watch.mode.name().into(),
            ..DirectoryStatus::default()
        };
        Reporter {
            files,
            last,
            named: watch.named.to_string_lossy().into_owned(),
            held: Vec::new(),
            held_since: None,
            said: None,
            first_sync: Some(clock::monotonic()),
        }
    }

    /// Called when a process begins, before the directory is open: clears the mark of a process
    /// that died.
    pub fn starts(&mut self) {
        if self.files.read().is_some_and(|status| status.running) {
            self.put(self.last.clone());
        }
    }

    /// Called when the directory is open.
    pub fn works(&mut self) {
        self.last.running = true;
        self.said = None;
    }

    pub fn files(&self) -> &StatusFiles {
        &self.files
    }

    /// Handles approvals.
    pub fn approve(&self, d: &Directory) {
        let Some(tokens) = self.files.approval() else {
            return;
        };
        match d.engine.approve(tokens.clone()) {
            Ok(()) => {
                log::info!(
                    "approved deletes count={} dir={}",
                    tokens.len(),
                    self.last.dir
                );
                self.files.answered("approve");
                d.wakeup.wake();
            }
            Err(fault) => log::warn!("cannot take an approval: {}", Error::from(fault)),
        }
    }

    /// Writes the status; returns the events for the hooks. `stream`: why the hub refuses its
    /// events.
    pub fn report(
        &mut self,
        d: &Directory,
        counters: &WatchCounters,
        stream: Option<String>,
    ) -> Vec<Notification> {
        let deletes = if d.engine.due() > d.engine.active() {
            d.engine.deletes()
        } else {
            Vec::new()
        };
        let held = if d.engine.held() > 0 {
            deletes
        } else {
            Vec::new()
        };
        self.held_since = if held.is_empty() {
            None
        } else {
            self.held_since.or(Some(clock::monotonic()))
        };
        let held = if self.may_tell_held(d) {
            held
        } else {
            Vec::new()
        };
        let facts = d.stats.facts();
        let in_sync = d.is_in_sync(&facts);
        let in_sync_since = d.stats.in_sync(in_sync);
        let mut news = d.stats.news(in_sync);
        if !held.is_empty() && self.held.is_empty() {
            let paths = held.iter().take(NAMED).map(|t| t.path.clone()).collect();
            news.push(Notification::Held {
                count: held.len() as u64,
                paths,
            });
            log::warn!(
                "held deletes: \"mesync approve {dir}\" allows them count={} dir={dir}",
                held.len(),
                dir = self.last.dir
            );
        }
        if held != self.held {
            self.write(|files| files.write_held(&held));
            self.held = held;
        }
        let mut problems = Vec::new();
        problems.extend(d.link.trouble().map(|e| e.to_string()));
        problems.extend(stream);
        let wrong = [&facts.no_space, &facts.rules, &facts.rescan];
        problems.extend(wrong.into_iter().flatten().map(Error::to_string));
        if !self.held.is_empty() {
            problems.push(format!(
                "{} held: see \"mesync approve {}\"",
                counted(self.held.len() as u64, "delete"),
                self.last.dir
            ));
        }
        let unwatched = counters.unwatched.load(Relaxed);
        if unwatched > 0 {
            problems.push(format!("not all of it is watched: {}", counters.why()));
        }
        if let Some(first) = &facts.skipped.unknown.first {
            problems.push(format!(
                "{} unreadable and left untouched: {first}",
                counted(facts.skipped.unknown.count, "directory")
            ));
        }
        let named = |(path, why): (&String, &Error)| NamedPath {
            path: path.clone(),
            why: why.to_string(),
        };
        let waiting: Vec<NamedPath> = facts
            .waiting(clock::monotonic(), LONG_WAIT)
            .take(NAMED)
            .map(named)
            .collect();
        let stuck = !problems.is_empty() || facts.refused() > 0 || !waiting.is_empty();
        let condition = if in_sync {
            DirectoryCondition::InSync
        } else if stuck {
            DirectoryCondition::Stuck
        } else if !facts.looked {
            DirectoryCondition::Starting
        } else {
            DirectoryCondition::Syncing
        };
        let examples = |e: &Example| Examples {
            count: e.count,
            first: e.first.clone(),
        };
        let status = DirectoryStatus {
            named: Some(self.named.clone()),
            condition,
            problems,
            files: d.state.files().unwrap_or(0),
            pending: d.engine.due() as u64,
            held_deletes: self.held.len() as u64,
            unsyncable_count: facts.refused(),
            unsyncable: facts.refused.iter().take(NAMED).map(named).collect(),
            waiting,
            conflict_copies: facts.copies,
            special: examples(&facts.skipped.special),
            names: examples(&facts.skipped.names),
            unknown: examples(&facts.skipped.unknown),
            watched: counters.watched.load(Relaxed),
            unwatched,
            in_sync_since: in_sync_since.map(clock::rfc3339),
            at: self.last.at.clone(),
            ..self.last.clone()
        };
        self.log_first_sync(&status);
        // numbers that change while it works are not written more often
        let soon = self
            .said
            .is_some_and(|at| at.elapsed() < STATUS_WRITE_INTERVAL)
            && (condition, self.last.condition)
                == (DirectoryCondition::Syncing, DirectoryCondition::Syncing);
        if self.said.is_none() || status != self.last && !soon {
            self.put(status);
        }
        news
    }

    /// Logs the progress of the first sync at intervals, and its end.
    fn log_first_sync(&mut self, now: &DirectoryStatus) {
        match self.first_sync {
            Some(_) if now.condition == DirectoryCondition::InSync => {
                self.first_sync = None;
                log::info!("in sync files={} dir={}", now.files, now.dir);
            }
            Some(at) if at.elapsed() >= FIRST_SYNC_INTERVAL && now.pending > 0 => {
                self.first_sync = Some(clock::monotonic());
                log::info!(
                    "first sync in progress pending={} done={} dir={}",
                    now.pending,
                    now.files,
                    now.dir
                );
            }
            _ => {}
        }
    }

    /// Held deletes are not reported while running work may still show that they are halves of
    /// renames.
    fn may_tell_held(&self, d: &Directory) -> bool {
        let long = self
            .held_since
            .is_some_and(|since| since.elapsed() >= HELD_UNTOLD_MAX);
        !self.held.is_empty() || d.engine.is_drained() && d.engine.is_quiet() || long
    }

    /// Records that the directory cannot be synced; returns whether that is new.
    pub fn trouble(&mut self, condition: DirectoryCondition, e: &Error) -> bool {
        let problems = vec![e.to_string()];
        let new = (self.last.condition, &self.last.problems) != (condition, &problems);
        if new {
            self.put(DirectoryStatus {
                condition,
                problems,
                in_sync_since: None,
                running: false,
                ..self.last.clone()
            });
        }
        new
    }

    /// Records that work on the directory ends for now: returns unreported events, and writes the
    /// last status.
    pub fn stopped(&mut self, d: &Directory) -> Vec<Notification> {
        self.put(DirectoryStatus {
            running: false,
            ..self.last.clone()
        });
        d.stats.news(true)
    }

    fn put(&mut self, status: DirectoryStatus) {
        self.last = DirectoryStatus {
            at: clock::rfc3339(clock::now()),
            ..status
        };
        self.said = self
            .write(|files| files.write(&self.last))
            .then(clock::monotonic);
    }

    fn write(&self, what: impl FnOnce(&StatusFiles) -> crate::error::Result<()>) -> bool {
        what(&self.files)
            .inspect_err(|e| log::debug!("{e}"))
            .is_ok()
    }
}
