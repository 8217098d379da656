//! The status of synced directories, from the status files that their processes write: for `mesync status` and the hub.
//!
//! It reads no synced directory, and asks no hub.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::status::{DirectoryCondition, DirectoryStatus, Examples, NamedPath, StatusFiles};
use super::tree::marker;
use crate::config::watch::WatchSettings;

/// One directory in the output of `--json`.
#[derive(Serialize)]
pub struct DirectoryRow {
    pub dir: String,
    pub healthy: bool,
    /// The settings contain it.
    pub configured: bool,
    /// The id of the process that syncs it now.
    pub process: Option<String>,
    /// Its process ended without a clean stop.
    pub died: bool,
    pub condition: DirectoryCondition,
    pub server: Option<String>,
    pub remote: String,
    pub mode: String,
    pub files: u64,
    pub pending: u64,
    pub problems: Vec<String>,
    pub held_deletes: u64,
    pub unsyncable_count: u64,
    pub unsyncable: Vec<NamedPath>,
    pub waiting: Vec<NamedPath>,
    pub conflict_copies: u64,
    pub skipped_special: u64,
    pub skipped_names: u64,
    pub unreadable: u64,
    /// Example paths of these three kinds, here and in the next two.
    pub first_skipped: Vec<String>,
    #[serde(skip)]
    pub first_special: Option<String>,
    #[serde(skip)]
    pub first_name: Option<String>,
    pub watched: u64,
    pub unwatched: u64,
    pub in_sync_since: Option<String>,
    /// When this status was written; `None`: never.
    pub seen_at: Option<String>,
}

/// All directories of the settings, and others that a process syncs or has synced.
pub fn rows(base_dir: &Path, watches: &[WatchSettings]) -> Vec<DirectoryRow> {
    let mut known: BTreeMap<PathBuf, Vec<DirectoryStatus>> = BTreeMap::new();
    for status in StatusFiles::all(base_dir)
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
    for watch in watches {
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

fn row(
    dir: &Path,
    configured: bool,
    process: Option<String>,
    mut s: DirectoryStatus,
) -> DirectoryRow {
    if !dir.is_dir() {
        s.condition = DirectoryCondition::Failed;
        s.problems = vec![
            "there is no such directory: mount or make it, or remove it from config.toml".into(),
        ];
    }
    let died = s.running && process.is_none();
    let settled = !matches!(
        s.condition,
        DirectoryCondition::Held | DirectoryCondition::Failed
    );
    if process.is_some() && !s.running && settled {
        // the process has not written its status yet
        s.condition = DirectoryCondition::Starting;
    }
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
    DirectoryRow {
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

impl DirectoryRow {
    pub fn is_in_sync(&self) -> bool {
        self.condition == DirectoryCondition::InSync && !self.died
    }
}

/// The path with all links resolved, as far as it exists.
pub fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_path_buf())
}
