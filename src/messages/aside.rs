//! Moves a file that is not a message, or that was refused, from the outbox to `failed/`, with a
//! reason beside it.
//!
//! It does not decide which files are moved or why.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::disk;

/// Moves `from` into the directory `failed` with its reason; returns the new path. After an error
/// the file is where it was.
pub fn move_aside(from: &Path, failed: &Path, why: &str) -> io::Result<PathBuf> {
    let name = from.file_name().unwrap_or_default();
    let is_dir = from.symlink_metadata()?.is_dir();
    // leave room for ".", ".reason" and ".tmp"; and a name that ends like that of a reason would be
    // taken for one
    let name_is_fit = name.len() <= 240 && !name.as_encoded_bytes().ends_with(b".reason");
    let mut name = if name_is_fit {
        name.to_os_string()
    } else {
        format!("{}.json", Uuid::now_v7()).into()
    };
    for again in 1.. {
        let (to, reason) = (failed.join(&name), failed.join(with(&name, ".reason")));
        let other = to.symlink_metadata().is_ok_and(|there| {
            from.symlink_metadata()
                .is_ok_and(|here| here.ino() != there.ino())
        });
        if other {
            name = OsString::from(format!("{}.{again}", Path::new(&name).display()));
            continue;
        }
        let temporary = disk::temporary(&reason);
        let written = disk::write_temporary(&temporary, format!("{why}\n").as_bytes(), 0o600)
            .and_then(|file| file.sync_all());
        let moved = written
            .and_then(|()| disk::rename(&temporary, &reason))
            .and_then(|()| move_to(from, &to, is_dir));
        return match moved {
            Ok(()) => Ok(to),
            Err(e) => {
                let _ = std::fs::remove_file(&temporary);
                // the message is still in the outbox: remove the second copy
                if from.symlink_metadata().is_ok() {
                    let _ = std::fs::remove_file(&reason);
                    let _ = std::fs::remove_file(&to);
                }
                Err(e)
            }
        };
    }
    unreachable!("some name is free")
}

/// Moves durably: the new name is synced before the old one is removed.
fn move_to(from: &Path, to: &Path, is_dir: bool) -> io::Result<()> {
    let linked = if is_dir {
        Err(io::ErrorKind::IsADirectory.into())
    } else {
        disk::link_or_copy(from, to)
    };
    match linked {
        Ok(()) => {}
        // linked before a crash
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        // a directory, or a file of another user: it can be neither linked nor read, but perhaps
        // renamed
        Err(_) => {
            disk::rename_noreplace(from, to)?;
            return disk::sync_dir(disk::parent(to));
        }
    }
    disk::sync_dir(disk::parent(to))?;
    std::fs::remove_file(from)
}

fn with(name: &OsStr, end: &str) -> OsString {
    let mut name = name.to_os_string();
    name.push(end);
    name
}
