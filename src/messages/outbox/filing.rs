//! Moves files from the outbox to `sent/` or `failed/`, and remembers those that cannot be read or
//! moved.
//!
//! A file that was handled is not sent again, whether or not it could be moved.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use super::Outbox;
use crate::config::limits;
use crate::disk;
use crate::error::{Error, Kind, plain};
use crate::messages::aside::move_aside;
use crate::messages::plan::FileContent;
use crate::wire::{self, Message, NotAMessage};

impl Outbox {
    /// Not synced: the hub has the message, and would respond with `duplicate`.
    pub(super) fn archive(&mut self, name: &OsStr) {
        let (from, to) = (self.dir.join(name), self.sent.join(name));
        let moved = if self.keeps_sent {
            disk::move_file(&from, &to)
        } else {
            std::fs::remove_file(&from)
        };
        match moved {
            Err(e) if e.kind() != io::ErrorKind::NotFound || from.symlink_metadata().is_ok() => {
                self.cannot_move(name, None, &e)
            }
            _ => drop(self.complained.remove(name)),
        }
    }

    /// Moves a file to `failed/` with the reason beside it. The reason is written first and the old
    /// name removed last, so after a crash the message is in at least one place.
    pub(super) fn refuse(&mut self, name: &OsStr, why: &str) {
        let from = self.dir.join(name);
        match move_aside(&from, &self.failed, why) {
            Ok(to) => {
                log::warn!(
                    "message {} was not sent and is now {}: {why}",
                    disk::show(name),
                    disk::show(to.as_os_str())
                );
                self.complained.remove(name);
            }
            Err(_)
                if from
                    .symlink_metadata()
                    .is_err_and(|e| e.kind() == io::ErrorKind::NotFound) => {}
            Err(e) => self.cannot_move(name, Some(why.to_string()), &e),
        }
    }

    /// Remembers a handled file, which is moved as soon as that is possible.
    fn cannot_move(&mut self, name: &OsStr, why: Option<String>, e: &io::Error) {
        if self.unmoved.len() < limits::OUTBOX_MESSAGES {
            self.unmoved.insert(name.to_os_string(), why);
        }
        self.complain(name, "move", e);
    }

    /// Reports a file that cannot be read or moved; it must not stop the others.
    pub(super) fn complain(&mut self, name: &OsStr, doing: &str, e: &io::Error) {
        let error = Error::io(
            format!("{doing} {}", disk::show(self.dir.join(name).as_os_str())),
            e,
        );
        if self.complained.get(name) != Some(&error)
            && self.complained.len() < limits::OUTBOX_MESSAGES
        {
            log::warn!("{error}");
            self.complained.insert(name.to_os_string(), error);
        }
    }

    /// Describes the files that cannot be read or moved, and the messages that the hub has no room
    /// for.
    pub fn trouble(&self) -> Option<String> {
        let files = self.complained.values().next();
        let files = files.map(|first| match self.complained.len() {
            1 => first.to_string(),
            n => format!("{first}, and {} more", n - 1),
        });
        let all: Vec<String> = files.into_iter().chain(self.holds.words()).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// Why messages remain: files that cannot be read or moved, or a hub without room.
    pub fn failure(&self) -> Option<Kind> {
        let held = self.holds.words().map(|_| Kind::Busy);
        Kind::worst(self.complained.values().map(|e| e.kind).chain(held))
    }
}

/// The content of a file in the outbox.
pub(super) fn read(path: &Path, meta: &std::fs::Metadata) -> io::Result<FileContent> {
    let kind = meta.file_type();
    let unusable = if kind.is_dir() {
        Some("it is a directory; a message is a file (names that begin with a dot are left alone)")
    } else if kind.is_symlink() {
        Some("it is a symbolic link; a message is a file of its own")
    } else if kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device()
    {
        Some("it is not a regular file")
    } else {
        None
    };
    if let Some(why) = unusable {
        return Ok(FileContent::Unusable(why.into()));
    }
    match disk::read_at_most(path, wire::MAX_MESSAGE) {
        // the true size, because not all of it was read
        Ok(bytes) if bytes.len() > wire::MAX_MESSAGE => Ok(FileContent::NotAMessage(
            NotAMessage::Content(wire::too_long(meta.len())),
        )),
        Ok(bytes) => {
            Ok(Message::parse(&bytes).map_or_else(FileContent::NotAMessage, FileContent::Message))
        }
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(FileContent::Unusable(
            format!("it cannot be read: {}", plain(&e)),
        )),
        Err(e) => Err(e),
    }
}
