//! The tables `[[watch]]` of `config.toml`: one for each synced directory.
//!
//! It does not check whether a directory exists: that happens when it is opened.

use std::path::PathBuf;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::values::{Parsed, bytes, milliseconds, number, path, seconds};
use crate::{relpath, wire};

pub const TABLE: &str = "watch";
/// Directories that one client syncs, and patterns of each, at most.
const MAX_WATCHED_DIRECTORIES: usize = 100;
const MOST_PATTERNS: usize = 1000;

/// A synced directory and its settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchSettings {
    pub path: PathBuf,
    /// The path as the user gave it; in `path` links may be resolved.
    pub named: PathBuf,
    /// The directory on the hub; "" is the whole hub.
    pub remote: String,
    pub mode: SyncMode,
    pub debounce: Duration,
    pub rescan: Duration,
    pub ignore: Vec<String>,
    pub concurrency: usize,
    /// Files that may be deleted within an hour without approval.
    pub max_deletes: u64,
    /// Or so many percent of all files, if that is more; 100: all deletes pass.
    pub max_delete_share: u64,
    /// Bytes per second in each direction; `None`: unlimited.
    pub bandwidth_limit: Option<u64>,
}

/// The directions in which changes are synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncMode {
    #[default]
    TwoWay,
    SendOnly,
    ReceiveOnly,
}

impl SyncMode {
    pub fn name(self) -> &'static str {
        match self {
            SyncMode::TwoWay => "two-way",
            SyncMode::SendOnly => "send-only",
            SyncMode::ReceiveOnly => "receive-only",
        }
    }
}

/// One row of the table.
pub struct WatchSetting {
    pub key: &'static str,
    /// As text. Empty: no value.
    pub default: &'static str,
    pub doc: &'static str,
    set: fn(&mut WatchSettings, &str) -> Parsed<()>,
}

const fn row(
    key: &'static str,
    default: &'static str,
    doc: &'static str,
    set: fn(&mut WatchSettings, &str) -> Parsed<()>,
) -> WatchSetting {
    WatchSetting {
        key,
        default,
        doc,
        set,
    }
}

/// All settings of a directory; only `ignore` may be given as a list.
#[rustfmt::skip]
pub static SETTINGS: &[WatchSetting] = &[
    row("path", "", "the directory; must be set",
        |s, v| path(v).map(|v| (s.path, s.named) = (v.clone(), v))),
    row("remote", "", "the directory on the hub that it is synced with; all of the hub if not set",
        |s, v| remote(v).map(|v| s.remote = v)),
    row("mode", "two-way", "direction of changes: two-way, send-only or receive-only",
        |s, v| mode(v).map(|v| s.mode = v)),
    row("debounce_ms", "500", "milliseconds that a file must stay unchanged after repeated changes (10 to 60000)",
        |s, v| milliseconds(v, 10, 60_000).map(|v| s.debounce = v)),
    row("rescan", "3600", "seconds between full scans, which do not rely on watching (10 to 86400)",
        |s, v| seconds(v, 10, 86_400).map(|v| s.rescan = v)),
    row("ignore", "", "patterns of files that are not synced, before those in .mesyncignore",
        |s, v| pattern(v).map(|v| s.ignore.push(v))),
    row("concurrency", "8", "requests at the same time, each way; many short files share one (1 to 64)",
        |s, v| number(v, 1, 64).map(|v| s.concurrency = v as usize)),
    row("max_deletes", "10", "files that may be deleted within an hour without approval; max_delete_share may allow more (0 to 1000000)",
        |s, v| number(v, 0, 1_000_000).map(|v| s.max_deletes = v)),
    row("max_delete_share", "25", "percent of all files that may be deleted within an hour without approval; 100: no delete is held (0 to 100)",
        |s, v| number(v, 0, 100).map(|v| s.max_delete_share = v)),
    row("bandwidth_limit", "", "bytes a second each way, such as 2MB/s; no limit if not set (1KB to 1TB)",
        |s, v| bytes(v.trim().trim_end_matches("/s"), 1000, 1_000_000_000_000).map(|v| s.bandwidth_limit = Some(v))),
];

fn mode(text: &str) -> Parsed<SyncMode> {
    let modes = [SyncMode::TwoWay, SyncMode::SendOnly, SyncMode::ReceiveOnly];
    let wrong = || {
        format!(
            "must be two-way, send-only or receive-only, not \"{}\"",
            wire::brief(text)
        )
    };
    modes
        .into_iter()
        .find(|mode| mode.name() == text.trim())
        .ok_or_else(wrong)
}

fn remote(text: &str) -> Parsed<String> {
    let text = text.trim_matches('/');
    if text.is_empty() {
        Ok(String::new())
    } else {
        relpath::check(text).map(|()| text.to_string())
    }
}

fn pattern(text: &str) -> Parsed<String> {
    if text.contains(['\n', '\0']) {
        Err("a pattern is one line".into())
    } else {
        Ok(text.to_string())
    }
}

impl WatchSettings {
    /// Sets one of [`SETTINGS`]; the error says which values are valid.
    pub fn set(&mut self, key: &str, value: &str) -> Parsed<()> {
        let row = SETTINGS
            .iter()
            .find(|row| row.key == key)
            .ok_or_else(|| format!("no setting {key}"))?;
        (row.set)(self, value)
    }

    /// A directory with all defaults.
    pub fn new(path: PathBuf) -> WatchSettings {
        let zero = Duration::ZERO;
        let mut settings = WatchSettings {
            named: path.clone(),
            path,
            remote: String::new(),
            mode: SyncMode::default(),
            debounce: zero,
            rescan: zero,
            ignore: Vec::new(),
            concurrency: 0,
            max_deletes: 0,
            max_delete_share: 0,
            bandwidth_limit: None,
        };
        for row in SETTINGS.iter().filter(|row| !row.default.is_empty()) {
            (row.set)(&mut settings, row.default).expect("the defaults are within their ranges");
        }
        settings
    }
}

/// The byte offset in the file, and the error.
type LocatedError = (usize, String);

/// Reads `[[watch]]`, which begins at byte `at` of the file.
pub(super) fn read(value: &DeValue<'_>, at: usize) -> Result<Vec<WatchSettings>, LocatedError> {
    let wrong = || (at, "watch must be tables: [[watch]]".to_string());
    let DeValue::Array(tables) = value else {
        return Err(wrong());
    };
    if tables.len() > MAX_WATCHED_DIRECTORIES {
        return Err((
            at,
            format!("at most {MAX_WATCHED_DIRECTORIES} directories can be watched"),
        ));
    }
    let mut all: Vec<WatchSettings> = Vec::new();
    for table in tables {
        let DeValue::Table(keys) = table.get_ref() else {
            return Err(wrong());
        };
        let settings = read_one(keys, table.span().start)?;
        if let Some(other) = all.iter().find(|o| overlap(o, &settings)) {
            let (one, other) = (settings.path.display(), other.path.display());
            return Err((
                table.span().start,
                format!("{one} and {other} overlap, here or on the hub"),
            ));
        }
        all.push(settings);
    }
    Ok(all)
}

fn read_one(keys: &DeTable<'_>, at: usize) -> Result<WatchSettings, LocatedError> {
    let mut settings = WatchSettings::new(PathBuf::new());
    for (name, value) in keys {
        let (key, at) = (name.get_ref().as_ref(), name.span().start);
        let Some(row) = SETTINGS.iter().find(|row| row.key == key) else {
            return Err((
                at,
                super::unknown(key, " under [[watch]]", SETTINGS.iter().map(|row| row.key)),
            ));
        };
        let mut set = |text: &str| {
            (row.set)(&mut settings, text).map_err(|why| (at, format!("{key}: {why}")))
        };
        match value.get_ref() {
            DeValue::Array(list) if key == "ignore" && list.len() <= MOST_PATTERNS => {
                for item in list {
                    let DeValue::String(text) = item.get_ref() else {
                        return Err((item.span().start, "ignore: a pattern is a string".into()));
                    };
                    set(text)?;
                }
            }
            DeValue::Array(_) if key == "ignore" => {
                return Err((at, format!("ignore: at most {MOST_PATTERNS} patterns")));
            }
            DeValue::String(text) => set(text)?,
            DeValue::Integer(n) => set(&n.to_string())?,
            _ => return Err((at, format!("{key} must be a string or a number"))),
        }
    }
    if settings.path.as_os_str().is_empty() {
        Err((at, "path is missing under [[watch]]".into()))
    } else {
        Ok(settings)
    }
}

/// Whether one directory contains the other: files in both would be synced with themselves.
pub fn overlap(one: &WatchSettings, other: &WatchSettings) -> bool {
    one.path.starts_with(&other.path)
        || other.path.starts_with(&one.path)
        || remotes_overlap(one, other)
}

/// Whether one of their directories on the hub contains the other.
pub fn remotes_overlap(one: &WatchSettings, other: &WatchSettings) -> bool {
    let within = |a: &str, b: &str| {
        a == b || b.is_empty() || a.strip_prefix(b).is_some_and(|rest| rest.starts_with('/'))
    };
    within(&one.remote, &other.remote) || within(&other.remote, &one.remote)
}
