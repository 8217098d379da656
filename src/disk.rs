//! The durable write, and the only renames, links and syncs of the program.
//!
//! It does not decide what to write or when: callers own the order, because the order is what survives a crash.
//!
//! After a failed fsync the kernel may have dropped the dirty pages and marked them clean, so a second fsync on the same
//! descriptor would lie (fsync(2), NOTES): every function here gives up and returns the error.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::RenameFlags;
use rustix::io::Errno;

use crate::error::{Error, Kind, Result};

/// The name of an unfinished file, which readers ignore.
pub fn temporary(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".tmp");
    path.with_file_name(name)
}

/// Writes a new file that no reader sees incomplete: not synced, and not under its final name.
pub fn write_temporary(path: &Path, bytes: &[u8], mode: u32) -> io::Result<File> {
    let open = || {
        let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC).bits() as i32;
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .custom_flags(flags)
            .open(path)
    };
    let mut file = match open() {
        // left behind by a killed process: no other process uses this name
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            std::fs::remove_file(path)?;
            open()?
        }
        other => other?,
    };
    give_if_root(parent(path), &file);
    match file.write_all(bytes) {
        Ok(()) => Ok(file),
        Err(e) => {
            let _ = std::fs::remove_file(path);
            Err(e)
        }
    }
}

/// Gives a file that this process created to the owner of a directory, whose programs read it.
pub fn give_to_owner(dir: &Path, file: &File) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let (owner, mine) = (dir.metadata()?, file.metadata()?);
    if owner.uid() == mine.uid() || owner.uid() == 0 {
        Ok(())
    } else {
        std::os::unix::fs::fchown(file, Some(owner.uid()), Some(owner.gid())).map_err(|e| {
            let why = format!(
                "{} belongs to user {}, who could not read it ({e}): send as that user",
                dir.display(),
                owner.uid()
            );
            io::Error::new(e.kind(), why)
        })
    }
}

/// A file that root creates in a directory of another user belongs to that user, as far as the
/// filesystem allows it.
fn give_if_root(dir: &Path, file: &File) {
    if rustix::process::geteuid().is_root()
        && let Err(e) = give_to_owner(dir, file)
    {
        log::debug!("{e}");
    }
}

/// Writes or replaces a file so that after a crash it has either the old or the new content,
/// complete.
pub fn write_durably(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let doing = || format!("write {}", path.display());
    let temporary = temporary(path);
    let file = write_temporary(&temporary, bytes, mode).map_err(|e| Error::io(doing(), &e))?;
    let done = file
        .sync_all()
        .and_then(|()| rename(&temporary, path))
        .and_then(|()| sync_dir(parent(path)));
    done.map_err(|e| {
        let _ = std::fs::remove_file(&temporary);
        Error::io(doing(), &e)
    })
}

/// The directory of a path.
pub fn parent(path: &Path) -> &Path {
    path.parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Creates a directory and its ancestors, for this user only, and makes their names durable.
pub fn create_dir(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let failed = |e: io::Error| Error {
        kind: Kind::CannotCreate,
        ..Error::io(format!("create directory {}", path.display()), &e)
    };
    if !parent(path).is_dir() {
        create_dir(parent(path))?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(e) => Err(failed(e)),
        Ok(()) => open_dir(path)
            .and_then(|dir| {
                give_if_root(parent(path), &dir);
                sync_dir(parent(path))
            })
            .map_err(|e| {
                // an existing directory counts as durable
                let _ = std::fs::remove_dir(path);
                failed(e)
            }),
    }
}

fn open_dir(path: &Path) -> io::Result<File> {
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::DIRECTORY).bits() as i32;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

pub fn sync_file(path: &Path) -> io::Result<()> {
    // fsync needs only read permission, and another user's file may not be writable
    open_regular(path)?.sync_all()
}

/// Syncs the whole filesystem of a directory: cheaper than one fsync for each file from about 16 files on.
pub fn sync_filesystem(dir: &Path) -> io::Result<()> {
    sync_filesystem_of(&File::open(dir)?)
}

/// The same for an open directory; an error is one of syncing.
pub fn sync_filesystem_of(dir: &File) -> io::Result<()> {
    Ok(rustix::fs::syncfs(dir)?)
}

/// Whether a failed write-back is reported by [`sync_filesystem`]: since Linux 5.8 (syncfs(2), VERSIONS).
pub fn syncfs_reports_errors() -> bool {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|n| n.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(5), Some(8))
}

#[allow(clippy::disallowed_methods)] // its home
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)
}

/// Renames unless the new name exists: then `AlreadyExists`, and nothing has changed.
#[allow(clippy::disallowed_methods)] // its home
pub fn rename_noreplace(from: &Path, to: &Path) -> io::Result<()> {
    let cwd = rustix::fs::CWD;
    match rustix::fs::renameat_with(cwd, from, cwd, to, RenameFlags::NOREPLACE) {
        // a filesystem or kernel without the flag: link(2) also refuses an existing name
        Err(Errno::INVAL | Errno::NOSYS) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        other => Ok(other?),
    }
}

/// Creates a second name for a file.
#[allow(clippy::disallowed_methods)] // its home
pub fn link(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::hard_link(from, to)
}

/// The result of a rename between open directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renamed {
    Done,
    /// The new name exists; for an exchange: one of the names does not.
    Refused,
    /// The filesystem or kernel does not support this kind of rename, and nothing has changed.
    Unsupported,
}

/// Renames between open directories unless the new name exists. If a name is a link, it is not followed.
pub fn rename_noreplace_at(
    from_dir: impl AsFd,
    from: &str,
    to_dir: impl AsFd,
    to: &str,
) -> io::Result<Renamed> {
    renamed(
        rustix::fs::renameat_with(from_dir, from, to_dir, to, RenameFlags::NOREPLACE),
        Errno::EXIST,
    )
}

/// Exchanges two names in one directory atomically.
pub fn exchange_at(dir: impl AsFd, one: &str, other: &str) -> io::Result<Renamed> {
    renamed(
        rustix::fs::renameat_with(&dir, one, &dir, other, RenameFlags::EXCHANGE),
        Errno::NOENT,
    )
}

/// Renames within an open directory, and replaces an entry with the new name.
pub fn rename_at(dir: impl AsFd, from: &str, to: &str) -> io::Result<()> {
    Ok(rustix::fs::renameat(&dir, from, &dir, to)?)
}

fn renamed(done: rustix::io::Result<()>, refused: Errno) -> io::Result<Renamed> {
    match done {
        Ok(()) => Ok(Renamed::Done),
        Err(e) if e == refused => Ok(Renamed::Refused),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => Ok(Renamed::Unsupported),
        Err(e) => Err(e.into()),
    }
}

/// Moves a file to another directory, perhaps on another filesystem; not synced if it is on the same.
pub fn move_file(from: &Path, to: &Path) -> io::Result<()> {
    match rename(from, to) {
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => match link_or_copy(from, to) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
            _ => std::fs::remove_file(from),
        },
        other => other,
    }
}

/// Creates a second name for a file, or a synced copy if there can be no link.
#[allow(clippy::disallowed_methods)] // its home
pub fn link_or_copy(from: &Path, to: &Path) -> io::Result<()> {
    match std::fs::hard_link(from, to) {
        Err(e)
            if [
                libc::EPERM,
                libc::EOPNOTSUPP,
                libc::EMLINK,
                libc::ENOSYS,
                libc::EXDEV,
            ]
            .contains(&e.raw_os_error().unwrap_or(0)) =>
        {
            let mut bytes = Vec::new();
            open_regular(from)?.read_to_end(&mut bytes)?;
            let temporary = temporary(to);
            write_temporary(&temporary, &bytes, 0o600)?.sync_all()?;
            rename_noreplace(&temporary, to)
        }
        other => other,
    }
}

/// Opens a regular file for reading: no symbolic link is followed, and a FIFO or device does not block.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let flags =
        (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC)
            .bits() as i32;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ))
    }
}

/// Reads a regular file of at most `most` bytes; of a longer one `most + 1` bytes, so that the caller can tell.
pub fn read_at_most(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?
        .take(most as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a key or another secret: the file must belong to this user and be unreadable for others (as OpenSSH requires of its
/// keys).
pub fn read_secret(path: &Path) -> Result<String> {
    use std::os::unix::fs::MetadataExt;
    let failed = |e: &io::Error| Error {
        kind: Kind::Settings,
        ..Error::io(format!("read the key file {}", path.display()), e)
    };
    let file = File::open(path).map_err(|e| failed(&e))?;
    let meta = file.metadata().map_err(|e| failed(&e))?;
    let me = rustix::process::geteuid().as_raw();
    if meta.is_file() && (meta.mode() & 0o077 != 0 || (meta.uid() != me && meta.uid() != 0)) {
        let what = format!(
            "will not use the key file {}: others can read it (mode {:o})",
            path.display(),
            meta.mode() & 0o7777
        );
        return Err(Error::new(Kind::Settings, what).hint(format!("chmod 600 {}", path.display())));
    }
    let mut text = String::new();
    file.take(4096)
        .read_to_string(&mut text)
        .map_err(|e| failed(&e))?;
    match text.trim() {
        "" => Err(Error::new(
            Kind::Settings,
            format!("the key file {} is empty", path.display()),
        )),
        key => Ok(key.to_string()),
    }
}

/// Reads a secret that the service manager put into `$CREDENTIALS_DIRECTORY` (systemd.exec(5)); `None` if it gave none.
///
/// Its owner and mode are not checked: systemd keeps other users out of the directory, and grants access with an ACL,
/// which looks like a mode that lets the group read.
pub fn read_credential(dir: Option<&Path>, name: &str) -> Result<Option<String>> {
    let Some(path) = dir.map(|dir| dir.join(name)) else {
        return Ok(None);
    };
    let failed = |why: &str| {
        Error::new(
            Kind::Settings,
            format!("cannot read the credential {}: {why}", path.display()),
        )
    };
    match read_at_most(&path, 4096).map(String::from_utf8) {
        Ok(Ok(text)) if !text.trim().is_empty() => Ok(Some(text.trim().to_string())),
        Ok(_) => Err(failed("it is empty or not text")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed(&crate::error::plain(&e))),
    }
}

/// A lock that ends with the process that holds it. `None`: another process has it.
///
/// The file keeps `content` for processes that find it locked, such as a process number.
pub fn lock(path: &Path, content: &str) -> Result<Option<File>> {
    let failed = |e: io::Error| Error::io(format!("lock {}", path.display()), &e);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    lock_open(file, content).map_err(failed)
}

/// Like [`lock`], for an open file.
pub fn lock_open(mut file: File, content: &str) -> io::Result<Option<File>> {
    for again in (0..10).rev() {
        match file.try_lock() {
            Ok(()) => break,
            Err(std::fs::TryLockError::WouldBlock) if again == 0 => return Ok(None),
            // `lock_holder` in another process may hold the lock for a moment
            Err(std::fs::TryLockError::WouldBlock) => {
                std::thread::park_timeout(std::time::Duration::from_millis(5))
            }
            Err(std::fs::TryLockError::Error(e)) => return Err(e),
        }
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(content.as_bytes()))?;
    Ok(Some(file))
}

/// Overwrites a short file in place, which needs no free space on most filesystems.
pub fn overwrite(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(content)?;
    file.set_len(content.len() as u64)
}

/// The content of a lock file, written by its holder; `None` if it is not locked.
pub fn lock_holder(path: &Path) -> Option<String> {
    let file = open_regular(path).ok()?;
    match file.try_lock_shared() {
        Err(std::fs::TryLockError::WouldBlock) => {
            let mut text = String::new();
            file.take(4096).read_to_string(&mut text).ok()?;
            Some(text)
        }
        _ => None,
    }
}

/// Free and total bytes, and free inodes, for an ordinary user (statvfs(3)). If inodes are not counted:
/// `u64::MAX`.
pub fn free_space(dir: &Path) -> io::Result<(u64, u64, u64)> {
    let s = rustix::fs::statvfs(dir)?;
    let inodes = if s.f_files == 0 { u64::MAX } else { s.f_favail };
    Ok((
        s.f_bavail.saturating_mul(s.f_frsize),
        s.f_blocks.saturating_mul(s.f_frsize),
        inodes,
    ))
}

/// Whether the filesystem is in memory, so that it is empty after a restart of the machine.
pub fn is_in_memory(dir: &Path) -> bool {
    // the numbers in statfs(2)
    const TMPFS: u64 = 0x0102_1994;
    const RAMFS: u64 = 0x8584_58f6;
    rustix::fs::statfs(dir)
        .is_ok_and(|s: rustix::fs::StatFs| matches!(s.f_type as u64 & 0xffff_ffff, TMPFS | RAMFS))
}

/// A file name for users: characters that would disturb a terminal or a log line are escaped.
pub fn show(name: &std::ffi::OsStr) -> String {
    String::from_utf8_lossy(name.as_bytes())
        .chars()
        .flat_map(|c| c.escape_debug())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noreplace_keeps_an_existing_file() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        write_durably(&a, b"1", 0o600).unwrap();
        write_durably(&b, b"2", 0o600).unwrap();
        assert_eq!(
            rename_noreplace(&a, &b).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(read_at_most(&b, 10).unwrap(), b"2");
        write_durably(&b, b"3", 0o600).unwrap();
        assert_eq!(read_at_most(&b, 10).unwrap(), b"3");
    }

    #[test]
    fn a_lock_is_held_once_and_names_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = lock(&path, "me").unwrap();
        assert!(held.is_some() && lock(&path, "you").unwrap().is_none());
        assert_eq!(lock_holder(&path).as_deref(), Some("me"));
        drop(held);
        assert_eq!(lock_holder(&path), None);
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "k\n").unwrap();
        rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
        assert!(
            read_secret(&path)
                .unwrap_err()
                .to_string()
                .contains("chmod 600")
        );
        rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        assert_eq!(read_secret(&path).unwrap(), "k");
    }
}
