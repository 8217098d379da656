//! Hooks: which program runs for a message, and the records in `state/hooks/` of the hooks that are
//! still to run.
//!
//! Only the records: `schedule` decides when one runs, `run` runs it. A record is a copy of the
//! message, because a user may change the files in `inbox/`: `<order>.<file name>.<type>.<runs so
//! far>`, or `….failed-<how>`. The order is that of arrival. A record without
//! an order was made by an earlier version, and is a second name of the file in `inbox/`.

pub mod own;
mod process;
mod program;
pub mod run;
pub mod schedule;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::parse_file_name;
use super::plan::HookEnd;
use crate::disk;
use crate::error::{Error, Kind, Result, plain};
use own::is_own;
pub use program::{cannot_start, program};

/// The parsed name of a record. Records sort in the order of arrival.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HookRecord {
    /// Numbers the records of this machine; 0: made by a version that did not number them.
    pub order: u64,
    /// The message's file name.
    pub message: String,
    pub kind: String,
    pub state: RecordState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordState {
    /// To be run, after this number of runs.
    Pending(u32),
    /// Not run again automatically. `None`: made by a version that did not record the reason.
    Failed(Option<HookEnd>),
}

impl HookRecord {
    /// Length of a message's file name: `YYYYMMDDTHHmmss_<uuid>.json`.
    const MESSAGE: usize = 15 + 1 + 36 + 5;
    /// Digits of the order.
    const ORDER: usize = 16;

    pub fn parse(name: &str) -> Option<HookRecord> {
        let counted = name
            .split_at_checked(HookRecord::ORDER)
            .and_then(|(order, rest)| {
                Some((
                    u64::from_str_radix(order, 16).ok()?,
                    rest.strip_prefix('.')?,
                ))
            });
        let (order, rest) = counted.unwrap_or((0, name));
        let (message, rest) = rest.split_at_checked(HookRecord::MESSAGE)?;
        parse_file_name(message)?;
        let (kind, state) = rest.strip_prefix('.')?.rsplit_once('.')?;
        let state = match state.strip_prefix("failed") {
            Some(how) => RecordState::Failed(parse_end(how)?),
            None => RecordState::Pending(state.parse().ok()?),
        };
        let record = HookRecord {
            order,
            message: message.into(),
            kind: kind.into(),
            state,
        };
        // accept one spelling only; otherwise a record found as "+1" or "01" would be looked up
        // under the canonical name and not found
        (record.file_name() == name).then_some(record)
    }

    pub fn file_name(&self) -> String {
        let order = if self.order == 0 {
            String::new()
        } else {
            format!("{:016x}.", self.order)
        };
        let state = match self.state {
            RecordState::Pending(runs) => runs.to_string(),
            RecordState::Failed(None) => "failed".into(),
            RecordState::Failed(Some(end)) => format!("failed-{}", end_name(end)),
        };
        format!("{order}{}.{}.{state}", self.message, self.kind)
    }

    pub fn path(&self, base: &Path) -> PathBuf {
        records_dir(base).join(self.file_name())
    }

    pub fn id(&self) -> Uuid {
        parse_file_name(&self.message).map_or(Uuid::nil(), |(_, id)| id)
    }

    pub fn is_failed(&self) -> bool {
        matches!(self.state, RecordState::Failed(_))
    }

    /// The number of runs so far.
    pub fn runs(&self) -> Option<u32> {
        match self.state {
            RecordState::Pending(runs) => Some(runs),
            RecordState::Failed(_) => None,
        }
    }
}

fn end_name(end: HookEnd) -> String {
    match end {
        HookEnd::Exit(code) => format!("exit-{code}"),
        HookEnd::Signal(signal) => format!("signal-{signal}"),
        HookEnd::Timeout => "timeout".into(),
        HookEnd::NotStarted(errno) => format!("start-{errno}"),
        HookEnd::Refused => "refused".into(),
        HookEnd::Gone => "gone".into(),
    }
}

/// Parses the word after "failed" in a name. `None`: an unknown word.
fn parse_end(how: &str) -> Option<Option<HookEnd>> {
    if how.is_empty() {
        return Some(None);
    }
    let how = how.strip_prefix('-')?;
    let (word, number) = how
        .split_once('-')
        .map_or((how, None), |(word, n)| (word, n.parse::<i32>().ok()));
    Some(Some(match (word, number) {
        ("exit", Some(code)) => HookEnd::Exit(code),
        ("signal", Some(signal)) => HookEnd::Signal(signal),
        ("start", Some(errno)) => HookEnd::NotStarted(errno),
        ("timeout", None) => HookEnd::Timeout,
        ("refused", None) => HookEnd::Refused,
        ("gone", None) => HookEnd::Gone,
        _ => return None,
    }))
}

/// The directory of the records.
pub fn records_dir(base: &Path) -> PathBuf {
    base.join("state/hooks")
}

/// The record for a message whose hook is to run, if there is one; a hook that must not be run
/// makes it a failed record.
pub fn new_record(base: &Path, order: u64, kind: &str, message: &str) -> Option<HookRecord> {
    let state = match program(base, kind) {
        Ok(None) => return None,
        Ok(Some(_)) => RecordState::Pending(0),
        Err(why) => {
            log::warn!(
                "{why}; then \"mesync retry --hooks\" runs it hook={kind} message={message}"
            );
            RecordState::Failed(Some(HookEnd::Refused))
        }
    };
    Some(HookRecord {
        order,
        message: message.into(),
        kind: kind.into(),
        state,
    })
}

/// Writes the record for a message that is hidden in `inbox/`, if its hook is to run. Not synced.
///
/// The record has its name before it is complete: it does not run until the message is accepted,
/// and if that never happens, it is removed at the next start.
/// never happens.
pub fn record(
    base: &Path,
    order: u64,
    kind: &str,
    text: &[u8],
    message: &str,
) -> io::Result<Option<HookRecord>> {
    let record = new_record(base, order, kind, message);
    let Some(record) = record else {
        return Ok(None);
    };
    let path = record.path(base);
    match disk::write_temporary(&path, text, 0o600) {
        // the directory was removed while the client runs
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            disk::create_dir(&records_dir(base)).map_err(|e| io::Error::other(e.to_string()))?;
            disk::write_temporary(&path, text, 0o600)?;
        }
        other => drop(other?),
    }
    Ok(Some(record))
}

/// The order of the next record.
pub fn next_order(base: &Path) -> io::Result<u64> {
    Ok(records(base)?
        .last()
        .map_or(0, |last| last.order)
        .saturating_add(1))
}

/// Removes the records of messages that were never accepted. Called only at start.
pub fn keep_only(base: &Path, accepted: impl Fn(&Uuid) -> bool) -> io::Result<()> {
    records(base)?
        .iter()
        .filter(|r| !accepted(&r.id()) && !is_own(r))
        .try_for_each(|record| remove(base, record))
}

fn remove(base: &Path, record: &HookRecord) -> io::Result<()> {
    match std::fs::remove_file(record.path(base)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// All records, in the order of arrival.
pub fn records(base: &Path) -> io::Result<Vec<HookRecord>> {
    let entries = match std::fs::read_dir(records_dir(base)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut records = Vec::new();
    for entry in entries {
        records.extend(entry?.file_name().to_str().and_then(HookRecord::parse));
    }
    records.sort();
    Ok(records)
}

/// The same for a command.
pub fn list(base: &Path) -> Result<Vec<HookRecord>> {
    records(base).map_err(|e| Error::io(format!("read {}", records_dir(base).display()), &e))
}

/// Ids of the messages that have a record.
pub fn recorded(base: &Path) -> Result<Vec<Uuid>> {
    Ok(list(base)?.iter().map(HookRecord::id).collect())
}

/// File names of the messages whose hook has failed, sorted.
pub fn failed(base: &Path) -> Result<Vec<String>> {
    let mut names: Vec<String> = list(base)?
        .into_iter()
        .filter(HookRecord::is_failed)
        .map(|r| r.message)
        .collect();
    names.sort();
    Ok(names)
}

/// How many hooks for news of directories have failed.
pub fn failed_news(base: &Path) -> io::Result<usize> {
    Ok(records(base)?
        .iter()
        .filter(|r| r.is_failed() && is_own(r))
        .count())
}

/// The programs of hooks as they are now, each looked up once.
pub struct Programs {
    base: PathBuf,
    known: BTreeMap<String, std::result::Result<Option<PathBuf>, String>>,
}

impl Programs {
    pub fn new(base: &Path) -> Programs {
        Programs {
            base: base.to_path_buf(),
            known: BTreeMap::new(),
        }
    }

    pub fn of(&mut self, kind: &str) -> &std::result::Result<Option<PathBuf>, String> {
        let base = &self.base;
        self.known
            .entry(kind.to_string())
            .or_insert_with(|| program(base, kind))
    }

    /// Whether the cause of a failed record is gone: the program that failed has been removed
    /// since.
    pub fn has_outlived(&mut self, record: &HookRecord) -> bool {
        let by_itself =
            matches!(record.state, RecordState::Failed(end) if end != Some(HookEnd::Gone));
        by_itself && matches!(self.of(&record.kind), Ok(None))
    }

    /// Why a record has failed, and the remedy; `None`: it has not failed.
    pub fn reason(&mut self, record: &HookRecord) -> Option<String> {
        let RecordState::Failed(end) = record.state else {
            return None;
        };
        let program = self.of(&record.kind);
        let why = match (end, program) {
            (_, Err(refused)) => return Some(refused.clone()),
            (Some(HookEnd::NotStarted(errno)), Ok(Some(path))) => {
                cannot_start(path, &io::Error::from_raw_os_error(errno))
            }
            (Some(HookEnd::NotStarted(errno)), _) => format!(
                "cannot start it: {}",
                plain(&io::Error::from_raw_os_error(errno))
            ),
            (Some(HookEnd::Refused), _) => "it was refused when the message arrived".into(),
            (Some(HookEnd::Gone), _) => "it was removed before it could run".into(),
            (Some(HookEnd::Exit(code)), _) => format!("exit status {code}"),
            (Some(HookEnd::Signal(signal)), _) => format!("it was killed by signal {signal}"),
            (Some(HookEnd::Timeout), _) => "it timed out (hook_timeout)".into(),
            (None, _) => "it failed".into(),
        };
        Some(match program {
            Ok(None) => format!("{why}; the hook was removed: mesync flush hooks"),
            _ => why,
        })
    }
}

/// Makes a failed hook run again, at its place in the order; not synced. Refused if it could only
/// fail again.
pub fn retry(base: &Path, record: &HookRecord, programs: &mut Programs) -> Result<()> {
    let what = format!("retry the hook of {}", record.id());
    match programs.of(&record.kind) {
        Ok(Some(_)) => {}
        Ok(None) => {
            let what = format!(
                "cannot {what}: there is no {}/hooks/{}",
                disk::show(base.as_os_str()),
                record.kind
            );
            return Err(Error::new(Kind::Failed, what)
                .hint("put it there, or give the hook up: mesync flush hooks"));
        }
        Err(why) => return Err(Error::new(Kind::Failed, format!("cannot {what}: {why}"))),
    }
    let renewed = HookRecord {
        state: RecordState::Pending(0),
        ..record.clone()
    };
    disk::rename_noreplace(&record.path(base), &renewed.path(base)).map_err(|e| Error::io(what, &e))
}

/// Gives up a failed hook; not synced: a crash restores the record.
pub fn give_up(base: &Path, record: &HookRecord) -> Result<()> {
    remove(base, record)
        .map_err(|e| Error::io(format!("remove {}", record.path(base).display()), &e))
}

/// Makes retries durable.
pub fn sync(base: &Path) -> Result<()> {
    let dir = records_dir(base);
    disk::sync_dir(&dir).map_err(|e| Error::io(format!("sync {}", dir.display()), &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_names_are_read_back_whatever_the_type() {
        let ends = [
            HookEnd::Exit(-1),
            HookEnd::Signal(9),
            HookEnd::Timeout,
            HookEnd::NotStarted(8),
            HookEnd::Refused,
            HookEnd::Gone,
        ];
        let failed = ends.map(|end| RecordState::Failed(Some(end)));
        let states = [
            &[
                RecordState::Pending(0),
                RecordState::Pending(12),
                RecordState::Failed(None),
            ][..],
            &failed,
        ]
        .concat();
        for kind in ["a", "task.event", "a.7", "x.failed", &"t".repeat(64)] {
            for (order, state) in states
                .iter()
                .flat_map(|state| [0, 1, u64::MAX].map(|order| (order, *state)))
            {
                let message =
                    "20261121T101112_01933b5e-0000-7000-8000-000000000001.json".to_string();
                let record = HookRecord {
                    order,
                    message,
                    kind: kind.into(),
                    state,
                };
                let name = record.file_name();
                assert!(name.len() <= 255);
                assert_eq!(HookRecord::parse(&name), Some(record), "{name}");
            }
        }
        assert_eq!(
            HookRecord::parse("20261121T101112_01933b5e-0000-7000-8000-000000000001.json"),
            None
        );
        assert_eq!(HookRecord::parse(".hidden"), None);
        for other in [
            "a.01",
            "a.+1",
            "a.-1",
            "a.4294967296",
            "a.",
            "a",
            "a.failed.",
            "a.failed-",
            "a.failed-exit",
            "a.failed-exit-+1",
            "a.failed-gone-1",
            "deploy.0%006ed.01",
        ] {
            let name = format!("20261121T101112_01933b5e-0000-7000-8000-000000000001.json.{other}");
            assert_eq!(HookRecord::parse(&name), None, "{other}");
            assert_eq!(
                HookRecord::parse(&format!("0000000000000000.{name}")),
                None,
                "{other}"
            );
        }
    }
}
