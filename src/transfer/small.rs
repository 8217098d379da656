//! A short file, a link or a directory, read completely, and its description for the hub. It sends
//! nothing.

use std::os::unix::ffi::OsStringExt;

use uuid::Uuid;

use super::source_file::{self, SourceFile};
use super::walk::WalkEntry;
use crate::chunking::{Content, Splitter};
use crate::client::HubResult;
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::wire::files::{self, BatchItem, Name};
use crate::wire::revision::{Condition, Tag};

/// What is sent about a file besides its content.
pub(super) struct FileAttributes<'a> {
    pub name: &'a Name,
    pub mode: u32,
    pub mtime: &'a str,
}

/// A small entry that was read.
pub struct SmallEntry {
    pub entry: WalkEntry,
    pub bytes: Vec<u8>,
    pub mode: u32,
    pub mtime: String,
    pub kind: files::EntryKind,
}

impl SmallEntry {
    pub fn of_file(entry: &WalkEntry, local: &SourceFile) -> HubResult<SmallEntry> {
        let mut bytes = Vec::with_capacity(local.size as usize);
        let read = std::io::Read::read_to_end(
            &mut std::io::Read::take(&local.file, local.size + 1),
            &mut bytes,
        );
        let shown = disk::show(entry.local.as_os_str());
        let n = read.map_err(|e| Error {
            kind: Kind::Io,
            ..Error::io(format!("read {shown}"), &e)
        })?;
        local.check(n as u64)?;
        Ok(SmallEntry {
            bytes,
            mode: local.mode,
            mtime: local.mtime.clone(),
            ..SmallEntry::empty(entry, files::EntryKind::File)
        })
    }

    /// A link, whose content is its target, or a directory, which has none.
    pub fn of_special(entry: &WalkEntry, kind: files::EntryKind) -> Result<SmallEntry> {
        let (mode, mtime) = special(entry)?;
        let bytes = match kind {
            files::EntryKind::Symlink => {
                let target = std::fs::read_link(&entry.local);
                let shown = disk::show(entry.local.as_os_str());
                target
                    .map_err(|e| Error::io(format!("read the link {shown}"), &e))?
                    .into_os_string()
                    .into_vec()
            }
            _ => Vec::new(),
        };
        Ok(SmallEntry {
            bytes,
            mode,
            mtime,
            ..SmallEntry::empty(entry, kind)
        })
    }

    fn empty(entry: &WalkEntry, kind: files::EntryKind) -> SmallEntry {
        SmallEntry {
            entry: entry.clone(),
            bytes: Vec::new(),
            mode: 0,
            mtime: String::new(),
            kind,
        }
    }

    pub(super) fn about(&self) -> FileAttributes<'_> {
        FileAttributes {
            name: &self.entry.name,
            mode: self.mode,
            mtime: &self.mtime,
        }
    }

    pub(super) fn content(&self) -> Content {
        let mut splitter = Splitter::default();
        splitter.feed(&self.bytes);
        splitter.finish()
    }

    pub(super) fn item(&self, content: &Content, condition: Condition) -> BatchItem {
        BatchItem {
            path: self.entry.name.path.clone(),
            name: self.entry.name.name.clone(),
            kind: self.kind,
            mode: Some(self.mode),
            mtime: Some(self.mtime.clone()),
            size: content.size,
            checksum_sha256: Some(content.sha256),
            if_match: if let Condition::Match(at) = condition {
                Some(at.rev)
            } else {
                None
            },
            tag: if let Condition::Match(at) = condition {
                at.tag
            } else {
                Tag::default()
            },
            if_none_match: condition == Condition::Absent,
            key: Some(Uuid::now_v7()),
            ..BatchItem::default()
        }
    }
}

/// Mode and time of an entry that is not a regular file.
fn special(entry: &WalkEntry) -> Result<(u32, String)> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::symlink_metadata(&entry.local);
    let meta = meta.map_err(|e| {
        Error::io(
            format!("look at {}", crate::disk::show(entry.local.as_os_str())),
            &e,
        )
    })?;
    Ok((meta.mode(), source_file::mtime(&meta)))
}
