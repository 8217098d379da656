//! How the directories that are kept in step are, for `mesync status`: from the files that their processes leave.
//!
//! It looks into none of them, and asks no hub.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::counted;
use super::output::Output;
use super::watches::real;
use crate::clock;
use crate::config::Settings;
use crate::files::status::{Condition, Examples, Files, Named, Status};
use crate::files::tree::marker;
use crate::logger::one_line;

/// Paths that cannot be synced and are shown to a person, at most.
const MAX_SHOWN_PATHS: usize = 10;

/// One directory, as `--json` shows it.
#[derive(Serialize)]
pub struct Row {
    dir: String,
    well: bool,
    /// It stands in the settings.
    configured: bool,
    /// The number of the process that keeps it in step now.
    process: Option<String>,
    /// That process has ended without stopping its work.
    died: bool,
    condition: Condition,
    server: Option<String>,
    remote: String,
    mode: String,
    files: u64,
    due: u64,
    problems: Vec<String>,
    held_deletes: u64,
    refused: u64,
    cannot: Vec<Named>,
    waiting: Vec<Named>,
    conflict_copies: u64,
    skipped_special: u64,
    skipped_names: u64,
    unreadable: u64,
    /// One example of each of these three.
    first_skipped: Vec<String>,
    #[serde(skip)]
    first_special: Option<String>,
    #[serde(skip)]
    first_name: Option<String>,
    watched: u64,
    unwatched: u64,
    in_step_since: Option<String>,
    /// When all this was written down; `None`: never.
    seen_at: Option<String>,
}

/// All directories of the settings, and those that a process keeps or has kept in step without them.
pub fn rows(settings: &Settings) -> Vec<Row> {
    let mut known: BTreeMap<PathBuf, Vec<Status>> = BTreeMap::new();
    for status in Files::all(&settings.base_dir)
        .iter()
        .filter_map(Files::read)
    {
        known
            .entry(PathBuf::from(&status.dir))
            .or_default()
            .push(status);
    }
    // of several, with other servers or directories there, the latest counts
    let latest = |all: Vec<Status>| all.into_iter().max_by(|a, b| a.at.cmp(&b.at));
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
        let new = || Status {
            remote: watch.remote.clone(),
            mode: watch.mode.name().into(),
            ..Status::default()
        };
        let status = latest(same).unwrap_or_else(new);
        rows.push(row(&dir, true, marker::holder(&dir), status));
    }
    for (dir, all) in known {
        let process = marker::holder(&dir);
        // one that was removed, and that nobody wants, is none
        if let Some(status) = latest(all).filter(|_| process.is_some() || dir.exists()) {
            rows.push(row(&dir, false, process, status));
        }
    }
    rows
}

fn row(dir: &Path, configured: bool, process: Option<String>, mut s: Status) -> Row {
    if !dir.is_dir() {
        s.condition = Condition::Failed;
        s.problems = vec![
            "there is no such directory: mount or make it, or take it out of config.toml".into(),
        ];
    }
    let died = s.running && process.is_none();
    if died {
        s.problems.insert(
            0,
            "the process that kept it in step has died: see its log, and start it again".into(),
        );
    }
    let well = s.condition == Condition::InStep
        && s.held_deletes == 0
        && s.refused == 0
        && s.unwatched == 0
        && s.problems.is_empty();
    let first = [&s.special, &s.names, &s.unknown]
        .into_iter()
        .filter_map(|e: &Examples| e.first.clone())
        .collect();
    Row {
        dir: dir.to_string_lossy().into_owned(),
        well,
        configured,
        process,
        died,
        condition: s.condition,
        server: Some(s.server).filter(|server| !server.is_empty()),
        remote: s.remote,
        mode: s.mode,
        files: s.files,
        due: s.due,
        problems: s.problems,
        held_deletes: s.held_deletes,
        refused: s.refused,
        cannot: s.cannot,
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
        in_step_since: s.in_step_since,
        seen_at: Some(s.at).filter(|at| !at.is_empty()),
    }
}

impl Row {
    pub fn is_well(&self) -> bool {
        self.well
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
            Condition::Starting if self.seen_at.is_none() => "never kept in step".to_string(),
            Condition::Starting => "being looked at".into(),
            Condition::InStep => "in step".into(),
            Condition::Working => "being brought into step".into(),
            Condition::Stuck => "not in step".into(),
            Condition::Held => "held: nothing is done there".into(),
            Condition::Failed => "cannot be used".into(),
        };
        match (&self.process, time(&self.seen_at)) {
            (Some(process), _) => {
                let since =
                    time(&self.in_step_since).map_or(String::new(), |at| format!(" since {at}"));
                format!("{words}{since}, process {process}")
            }
            // who tries again and again to open it keeps it open at no time
            (None, Some(at)) if matches!(self.condition, Condition::Held | Condition::Failed) => {
                format!("{words} (seen {at}{age})")
            }
            (None, Some(at)) => format!("not running; last seen {words}, {at}{age}"),
            (None, None) => format!("not running; {words}"),
        }
    }

    pub fn print(&self, out: &mut Output) {
        let mut lines = vec![one_line(&self.dir), self.condition()];
        let due = self.due.saturating_sub(self.held_deletes);
        if due > 0 {
            lines.push(format!("{} to do", counted(due, "path")));
        }
        lines.extend(self.problems.iter().map(|problem| one_line(problem)));
        if self.refused > 0 {
            lines.push(format!(
                "{} cannot be synced:",
                counted(self.refused, "path")
            ));
            lines.extend(
                self.cannot
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
            let conflicts = self.conflict_copies;
            lines.push(format!(
                "{}: see \"mesync conflicts\"",
                if conflicts == 1 {
                    "1 conflict copy".into()
                } else {
                    format!("{conflicts} conflict copies")
                }
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
                    "left out, since it is {what}: {}{more}",
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
