//! Hooks: which program runs for a message, and the records in `state/hooks/` of those still to run.
//!
//! Records only: `schedule` decides when one runs, `run` runs it. A record is a second name of the message's file,
//! `<file name>.<type>.<runs so far>`, or `….failed`; so it is there whatever happens to `inbox/`.

pub mod run;
pub mod schedule;

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::announce::is_own;
use super::parse_file_name;
use crate::disk;
use crate::error::{Error, Result};

/// The hook for types that have none of their own; no type can have this name.
const ANY: &str = "_any";

/// The name of a record, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    /// The message's file name.
    pub message: String,
    pub kind: String,
    /// Runs so far; `None`: failed for good.
    pub attempts: Option<u32>,
}

impl Record {
    /// Length of a message's file name: `YYYYMMDDTHHmmss_<uuid>.json`.
    const MESSAGE: usize = 15 + 1 + 36 + 5;

    pub fn parse(name: &str) -> Option<Record> {
        let (message, rest) = name.split_at_checked(Record::MESSAGE)?;
        parse_file_name(message)?;
        let (kind, attempts) = rest.strip_prefix('.')?.rsplit_once('.')?;
        let attempts = if attempts == "failed" { None } else { Some(attempts.parse().ok()?) };
        let record = Record { message: message.into(), kind: kind.into(), attempts };
        // one spelling only, or what was found under "+1" or "01" would not be there under the name that we make of it
        (record.file_name() == name).then_some(record)
    }

    pub fn file_name(&self) -> String {
        match self.attempts {
            Some(n) => format!("{}.{}.{n}", self.message, self.kind),
            None => format!("{}.{}.failed", self.message, self.kind),
        }
    }

    pub fn id(&self) -> Uuid {
        parse_file_name(&self.message).map_or(Uuid::nil(), |(_, id)| id)
    }
}

/// Where the records stand.
pub fn records_dir(base: &Path) -> PathBuf {
    base.join("state/hooks")
}

/// The program that runs for a type. `Ok(None)`: there is none. `Err`: there is one that must not be run, and why.
pub fn program(base: &Path, kind: &str) -> std::result::Result<Option<PathBuf>, String> {
    for name in [kind, ANY] {
        let path = base.join("hooks").join(name);
        let Ok(meta) = path.symlink_metadata() else { continue };
        let me = rustix::process::geteuid().as_raw();
        let why = if meta.file_type().is_symlink() {
            "it is a symbolic link; put the file itself there"
        } else if !meta.is_file() {
            "it is not a regular file"
        } else if meta.uid() != me && meta.uid() != 0 {
            "it belongs to another user"
        } else if meta.mode() & 0o022 != 0 {
            "others may write to it; run chmod go-w"
        } else if rustix::fs::access(&path, rustix::fs::Access::EXEC_OK).is_err() {
            "it is not executable; run chmod +x"
        } else {
            return Ok(Some(path));
        };
        return Err(format!("hook {} is not run: {why}", path.display()));
    }
    Ok(None)
}

/// Records that the hook for a message that has just been written is to run, if there is one; not synced.
pub fn record(base: &Path, kind: &str, message: &Path, name: &str) -> io::Result<bool> {
    match program(base, kind) {
        Ok(None) => Ok(false),
        Err(why) => {
            log::warn!("{why}");
            Ok(false)
        }
        Ok(Some(_)) => {
            let record = Record { message: name.into(), kind: kind.into(), attempts: Some(0) };
            let path = records_dir(base).join(record.file_name());
            match disk::link_or_copy(message, &path) {
                // left behind when a disk was full
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    std::fs::remove_file(&path)?;
                    disk::link_or_copy(message, &path)?;
                }
                other => other?,
            }
            Ok(true)
        }
    }
}

/// Removes the records of a message that was not taken after all.
pub fn forget(base: &Path, message: &str) -> io::Result<()> {
    for record in records(base)?.iter().filter(|r| r.message == message) {
        std::fs::remove_file(records_dir(base).join(record.file_name()))?;
    }
    Ok(())
}

/// Removes the records of messages that were never accepted. At start only.
pub fn keep_only(base: &Path, accepted: impl Fn(&Uuid) -> bool) -> io::Result<()> {
    for record in records(base)?.iter().filter(|r| !accepted(&r.id()) && !is_own(r)) {
        std::fs::remove_file(records_dir(base).join(record.file_name()))?;
    }
    Ok(())
}

/// All records, in the order of their messages.
pub fn records(base: &Path) -> io::Result<Vec<Record>> {
    let entries = match std::fs::read_dir(records_dir(base)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut records: Vec<Record> = entries.filter_map(|e| Record::parse(e.ok()?.file_name().to_str()?)).collect();
    records.sort();
    Ok(records)
}

/// Ids of the messages that have a record.
pub fn recorded(base: &Path) -> Result<Vec<Uuid>> {
    let records = records(base).map_err(|e| Error::io(format!("read {}", records_dir(base).display()), &e))?;
    Ok(records.iter().map(Record::id).collect())
}

/// File names of the messages whose hook failed for good.
pub fn failed(base: &Path) -> Result<Vec<String>> {
    let records = records(base).map_err(|e| Error::io(format!("read {}", records_dir(base).display()), &e))?;
    Ok(records.into_iter().filter(|r| r.attempts.is_none()).map(|r| r.message).collect())
}

/// Lets a failed hook run again; `name` is the message's file name.
pub fn retry(base: &Path, name: &str) -> Result<()> {
    let dir = records_dir(base);
    let again = || -> io::Result<()> {
        for record in records(base)?.into_iter().filter(|r| r.message == name && r.attempts.is_none()) {
            let renewed = Record { attempts: Some(0), ..record.clone() };
            disk::rename_noreplace(&dir.join(record.file_name()), &dir.join(renewed.file_name()))?;
        }
        disk::sync_dir(&dir)
    };
    again().map_err(|e| Error::io(format!("retry the hook of {name}"), &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_names_are_read_back_whatever_the_type() {
        for kind in ["a", "task.event", "a.7", "x.failed", &"t".repeat(64)] {
            for attempts in [Some(0), Some(12), None] {
                let message = "20261121T101112_01933b5e-0000-7000-8000-000000000001.json".to_string();
                let record = Record { message, kind: kind.into(), attempts };
                assert_eq!(Record::parse(&record.file_name()), Some(record));
            }
        }
        assert_eq!(Record::parse("20261121T101112_01933b5e-0000-7000-8000-000000000001.json"), None);
        assert_eq!(Record::parse(".hidden"), None);
        for other in ["a.01", "a.+1", "a.-1", "a.4294967296", "a.", "a", "a.failed.", "deploy.0%006ed.01"] {
            let name = format!("20261121T101112_01933b5e-0000-7000-8000-000000000001.json.{other}");
            assert_eq!(Record::parse(&name), None, "{other}");
        }
    }
}
