//! The status of synced directories for `mesync status`, from the status files that their processes write.
//!
//! It reads no synced directory, and asks no hub.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::counted;
use super::output::Output;
use super::watches::real;
use crate::clock;
use crate::config::Settings;
use crate::files::status::{DirectoryCondition, DirectoryStatus, Examples, NamedPath, StatusFiles};
use crate::files::tree::marker;
use crate::logger::one_line;

/// Unsyncable paths that are shown to a person at most.
const MAX_SHOWN_PATHS: usize = 10;

/// One directory in the output of `--json`.
#[derive(Serialize)]
pub struct Row {
    dir: String,
    healthy: bool,
    /// The settings contain it.
    configured: bool,
    /// The id of the process that syncs it now.
    process: Option<String>,
    /// Its process ended without a clean stop.
    died: bool,
    condition: DirectoryCondition,
    server: Option<String>,
    remote: String,
    mode: String,
    files: u64,
    pending: u64,
    problems: Vec<String>,
    held_deletes: u64,
    unsyncable_count: u64,
    unsyncable: Vec<NamedPath>,
    waiting: Vec<NamedPath>,
    conflict_copies: u64,
    skipped_special: u64,
    skipped_names: u64,
    unreadable: u64,
    /// Example paths of these three kinds, here and in the next two.
    first_skipped: Vec<String>,
    #[serde(skip)]
    first_special: Option<String>,
    #[serde(skip)]
    first_name: Option<String>,
    watched: u64,
    unwatched: u64,
    in_sync_since: Option<String>,
    /// When this status was written; `None`: never.
    seen_at: Option<String>,
}

/// All directories of the settings, and others that a process syncs or has synced.
pub fn rows(settings: &Settings) -> Vec<Row> {
    let mut known: BTreeMap<PathBuf, Vec<DirectoryStatus>> = BTreeMap::new();
    for status in StatusFiles::all(&settings.base_dir)
        .iter()
        .filter_map(StatusFiles::read)
    {
        known
            .entry(PathBuf::from(&status.dir))
            .or_default()
            .push(status);
    }
    // use the latest status file of several, for other servers or remote directories
    let latest = |all: Vec<DirectoryStatus>| all.into_iter().max_by(|a, b| a.at.cmp(&b.at));
    let mut rows = Vec::new();
    for watch in &settings.watches {
        let dir = real(&watch.path);
        let of_dir = known
            .remove(Path::new(&*dir.to_string_lossy()))
            .unwrap_or_default();
        let same = of_dir
            .into_iter()
            .filter(|s| s.remote == watch.remote)
            .collect();
        let new = || DirectoryStatus {
            remote: watch.remote.clone(),
            mode: watch.mode.name().into(),
            ..DirectoryStatus::default()
        };
        let status = latest(same).unwrap_or_else(new);
        rows.push(row(&dir, true, marker::holder(&dir), status));
    }
    for (dir, all) in known {
        let process = marker::holder(&dir);
        // leave out a removed directory that no process syncs
        if let Some(status) = latest(all).filter(|_| process.is_some() || dir.exists()) {
            rows.push(row(&dir, false, process, status));
        }
    }
    rows
}

fn row(dir: &Path, configured: bool, process: Option<String>, mut s: DirectoryStatus) -> Row {
    if !dir.is_dir() {
        s.condition = DirectoryCondition::Failed;
        s.problems = vec![
            "there is no such directory: mount or make it, or take it out of config.toml".into(),
        ];
    }
    let died = s.running && process.is_none();
    if died {
        s.problems.insert(
            0,
            "the process that synced it has died: see its log, and start it again".into(),
        );
    }
    let healthy = s.condition == DirectoryCondition::InSync
        && s.held_deletes == 0
        && s.unsyncable_count == 0
        && s.unwatched == 0
        && s.problems.is_empty();
    let first = [&s.special, &s.names, &s.unknown]
        .into_iter()
        .filter_map(|e: &Examples| e.first.clone())
        .collect();
    Row {
        dir: dir.to_string_lossy().into_owned(),
        healthy,
        configured,
        process,
        died,
        condition: s.condition,
        server: Some(s.server).filter(|server| !server.is_empty()),
        remote: s.remote,
        mode: s.mode,
        files: s.files,
        pending: s.pending,
        problems: s.problems,
        held_deletes: s.held_deletes,
        unsyncable_count: s.unsyncable_count,
        unsyncable: s.unsyncable,
        waiting: s.waiting,
        conflict_copies: s.conflict_copies,
        skipped_special: s.special.count,
        skipped_names: s.names.count,
        unreadable: s.unknown.count,
        first_skipped: first,
        first_special: s.special.first,
        first_name: s.names.first,
        watched: s.watched,
        unwatched: s.unwatched,
        in_sync_since: s.in_sync_since,
        seen_at: Some(s.at).filter(|at| !at.is_empty()),
    }
}

impl Row {
    pub fn is_healthy(&self) -> bool {
        self.healthy
    }

    pub fn is_in_sync(&self) -> bool {
        self.condition == DirectoryCondition::InSync && !self.died
    }

    fn condition(&self) -> String {
        let time = |text: &Option<String>| {
            text.as_deref()
                .and_then(clock::parse_rfc3339)
                .map(clock::local)
        };
        let seen = self.seen_at.as_deref().and_then(clock::parse_rfc3339);
        let age = seen
            .and_then(clock::since)
            .map_or(String::new(), |age| format!(", {} ago", clock::age(age)));
        let words = match self.condition {
            DirectoryCondition::Starting if self.seen_at.is_none() => "never synced".to_string(),
            DirectoryCondition::Starting => "being scanned".into(),
            DirectoryCondition::InSync => "in sync".into(),
            DirectoryCondition::Syncing => "syncing".into(),
            DirectoryCondition::Stuck => "not in sync".into(),
            DirectoryCondition::Held => "held: mesync changes nothing there".into(),
            DirectoryCondition::Failed => "cannot be opened".into(),
        };
        match (&self.process, time(&self.seen_at)) {
            (Some(process), _) => {
                let since =
                    time(&self.in_sync_since).map_or(String::new(), |at| format!(" since {at}"));
                format!("{words}{since}, process {process}")
            }
            // between attempts to open the directory, its process does not hold the lock
            (None, Some(at))
                if matches!(
                    self.condition,
                    DirectoryCondition::Held | DirectoryCondition::Failed
                ) =>
            {
                format!("{words} (seen {at}{age})")
            }
            (None, Some(at)) => format!("not running; last seen {words}, {at}{age}"),
            (None, None) => format!("not running; {words}"),
        }
    }

    pub fn print(&self, out: &mut Output) {
        let mut lines = vec![one_line(&self.dir), self.condition()];
        let pending = self.pending.saturating_sub(self.held_deletes);
        if pending > 0 {
            lines.push(format!("{} pending", counted(pending, "path")));
        }
        lines.extend(self.problems.iter().map(|problem| one_line(problem)));
        if self.unsyncable_count > 0 {
            lines.push(format!(
                "{} cannot be synced:",
                counted(self.unsyncable_count, "path")
            ));
            lines.extend(
                self.unsyncable
                    .iter()
                    .take(MAX_SHOWN_PATHS)
                    .map(|c| format!("  {}: {}", one_line(&c.path), one_line(&c.why))),
            );
        }
        lines.extend(
            self.waiting
                .iter()
                .take(MAX_SHOWN_PATHS)
                .map(|w| format!("{} waits: {}", one_line(&w.path), one_line(&w.why))),
        );
        if self.conflict_copies > 0 {
            lines.push(format!(
                "{}: see \"mesync conflicts\"",
                counted(self.conflict_copies, "conflict copy")
            ));
        }
        for (n, what, first) in [
            (
                self.skipped_special,
                "a socket, FIFO or device",
                &self.first_special,
            ),
            (
                self.skipped_names,
                "a name that is not UTF-8, or too long",
                &self.first_name,
            ),
        ] {
            if let (1.., Some(first)) = (n, first) {
                let more = if n > 1 {
                    format!(", and {} more", n - 1)
                } else {
                    String::new()
                };
                lines.push(format!(
                    "skipped, since it is {what}: {}{more}",
                    one_line(first)
                ));
            }
        }
        for (n, text) in lines.iter().enumerate() {
            let name = out.bold(&format!("{:<13}", if n == 0 { "directory" } else { "" }));
            out.line(&format!("{name} {text}"));
        }
    }
}
