//! A file of tables (redb) as all parts of the program open it: private, one process at a time, its errors in our words. Its
//! tables have types, but redb is compiled for one pair of them only ([`table`]).
//!
//! It does not know which tables there are.

pub mod file;
mod layout;
pub mod lsm;
mod raw;
pub mod table;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;

use redb::{Database, DatabaseError};

use crate::error::{Error, Kind, Result};
use file::{Happened, Medium};

/// The result of a use of tables.
pub type DbResult<T> = std::result::Result<T, redb::Error>;

/// What a person can do about a file that cannot be opened.
#[derive(Debug, Clone, Copy)]
pub struct Hints {
    /// Another process has it.
    pub busy: &'static str,
    pub damaged: &'static str,
}

/// Opens or creates the file with `cache` bytes of memory for pages. redb trusts a file that was closed in order and may panic
/// on one that was altered since.
pub fn open(
    path: &Path,
    cache: usize,
    happened: &Arc<Happened>,
    hints: &Hints,
) -> Result<Database> {
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC).bits() as i32;
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(flags)
            .open(path)
    };
    let file: File = open().map_err(|e| Error::io(format!("open {}", path.display()), &e))?;
    open_file(file, path, cache, happened, hints)
}

/// The same of a file that is open; `path` is for messages.
pub fn open_file(
    file: File,
    path: &Path,
    cache: usize,
    happened: &Arc<Happened>,
    hints: &Hints,
) -> Result<Database> {
    let shown = path.display().to_string();
    let build = || {
        let medium = Medium::new(file, Arc::clone(happened))?;
        let mut builder = Database::builder();
        builder
            .set_cache_size(cache)
            .set_repair_callback(move |_| log::info!("repairing {shown} after a crash"));
        builder.create_with_backend(medium)
    };
    match std::panic::catch_unwind(AssertUnwindSafe(build)) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => {
            let what = format!(
                "cannot open {}: another process has it open",
                path.display()
            );
            Err(Error::new(Kind::Busy, what).hint(hints.busy))
        }
        Ok(Err(e)) => Err(error("open", path, &e.into(), hints)),
        Err(_) => Err(damaged(path, "it is damaged", hints)),
    }
}

/// An error of redb in our words.
pub fn error(doing: &str, path: &Path, e: &redb::Error, hints: &Hints) -> Error {
    match e {
        redb::Error::Io(e) if e.kind() == std::io::ErrorKind::InvalidData => {
            damaged(path, &e.to_string().to_lowercase(), hints)
        }
        redb::Error::Io(e) => Error::io(format!("{doing} {}", path.display()), e),
        // between a failed write and the reopening of the file
        redb::Error::PreviousIo | redb::Error::DatabaseClosed => Error::new(
            Kind::Busy,
            format!("cannot {doing} {}: an earlier write failed", path.display()),
        ),
        e => damaged(path, &e.to_string(), hints),
    }
}

fn damaged(path: &Path, why: &str, hints: &Hints) -> Error {
    Error::new(
        Kind::Damaged,
        format!("cannot use {}: {why}", path.display()),
    )
    .hint(hints.damaged)
}

#[cfg(test)]
mod tests;
