//! The hub's data directory: private, and locked by one hub at a time.
//!
//! It does not read the directory's content.

use std::fs::{File, Permissions};
use std::io::{self, Seek, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crossbeam_channel::after;

use crate::error::{Error, Kind, Result};
use crate::{disk, wire};

/// The lock, held as long as the hub runs.
pub struct DataDirLock {
    path: PathBuf,
    lock: File,
}

/// The content of the lock file until the hub listens: clients do not take it for an address.
const STARTING: &str = "starting";

/// Makes the directory if it is missing, makes it private, and locks it.
pub fn lock(dir: &Path) -> Result<DataDirLock> {
    disk::create_dir(dir)?;
    make_private(dir)?;
    let path = dir.join(wire::HUB_LOCK);
    // a process that tests the lock holds it for a moment
    for _ in 0..200 {
        if let Some(lock) = disk::lock(&path, STARTING)? {
            return Ok(DataDirLock { path, lock });
        }
        if let Some(holder) = disk::lock_holder(&path) {
            let holder = match holder.trim() {
                STARTING | "" => "is starting".to_string(),
                address => format!("listens on {}", wire::brief(address)),
            };
            let what = format!(
                "cannot use the data directory {}: another hub has it, which {holder}",
                dir.display()
            );
            return Err(Error::new(Kind::Busy, what)
                .hint("stop that one, or give this one its own directory with --data"));
        }
        let _ = after(Duration::from_millis(10)).recv();
    }
    Err(Error::new(
        Kind::Busy,
        format!(
            "cannot lock {}: too many processes use the lock",
            path.display()
        ),
    ))
}

impl DataDirLock {
    /// Writes the address once the hub listens: clients on this machine send their key there.
    pub fn write_address(&mut self, address: SocketAddr) -> Result<()> {
        let written = self
            .lock
            .set_len(0)
            .and_then(|()| self.lock.rewind())
            .and_then(|()| writeln!(self.lock, "{address}"));
        written.map_err(|e| Error::io(format!("write {}", self.path.display()), &e))
    }
}

/// Removes the access of other users if the directory is the hub's; directories of other owners are not changed.
fn make_private(dir: &Path) -> Result<()> {
    let failed = |e: io::Error| Error::io(format!("use the data directory {}", dir.display()), &e);
    let meta = std::fs::metadata(dir).map_err(failed)?;
    if meta.mode() & 0o077 == 0 {
        return Ok(());
    }
    let empty = std::fs::read_dir(dir).map_err(failed)?.next().is_none();
    if empty || dir.join(wire::LOCAL_KEY).exists() {
        return std::fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(failed);
    }
    let what = format!(
        "will not use the data directory {}: other users can read it (mode {:o})",
        dir.display(),
        meta.mode() & 0o7777
    );
    Err(Error::new(Kind::Settings, what).hint(format!(
        "chmod 700 {0} if it is the hub's alone, or choose another",
        dir.display()
    )))
}

/// Gives a file that root has written in a hub's directory to the user that the hub runs as.
pub fn give_to_owner(data_dir: &Path, path: &Path) -> Result<()> {
    let failed = |e: io::Error| Error::io(format!("give {} to the hub's user", path.display()), &e);
    let (dir, meta) = (
        std::fs::metadata(data_dir).map_err(failed)?,
        std::fs::metadata(path).map_err(failed)?,
    );
    if dir.uid() == meta.uid() || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    std::os::unix::fs::chown(path, Some(dir.uid()), Some(dir.gid()))
        .and_then(|()| disk::sync_file(path))
        .map_err(failed)
}

/// Data directories of the hubs of all users that run on this machine, from the kernel's list of sockets: each hub listens
/// on one in its directory.
pub fn running() -> Vec<PathBuf> {
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let mut found: Vec<PathBuf> = sockets
        .lines()
        .filter_map(|line| data_dir_of(line.split_ascii_whitespace().nth(7)?))
        .collect();
    found.sort();
    found.dedup();
    found
}

/// `DIR/socket/hub-N.sock`; see `server::backend`.
fn data_dir_of(socket: &str) -> Option<PathBuf> {
    let (dir, name) = socket.rsplit_once("/socket/")?;
    let number = name.strip_prefix("hub-")?.strip_suffix(".sock")?;
    (dir.starts_with('/') && number.parse::<u64>().is_ok()).then(|| dir.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_of_a_hub_names_its_directory() {
        let check = |socket: &str, wants: Option<&str>| {
            assert_eq!(data_dir_of(socket), wants.map(PathBuf::from), "{socket}")
        };
        check(
            "/var/lib/mesync/hub/socket/hub-1.sock",
            Some("/var/lib/mesync/hub"),
        );
        for other in [
            "/run/socket/hub-x.sock",
            "/run/hub-1.sock",
            "socket/hub-1.sock",
            "@/x/socket/hub-1",
            "/x/socket/hub-1.sock.old",
        ] {
            check(other, None);
        }
    }

    fn open_to_others(dir: &Path) {
        std::fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn one_hub_has_the_directory_and_says_where_it_listens() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("a/hub");
        let refused = || {
            lock(&data)
                .map(|_| ())
                .map_err(|e| (e.kind, e.what))
                .unwrap_err()
        };
        let mut first = lock(&data).unwrap();
        assert_eq!(std::fs::metadata(&data).unwrap().mode() & 0o777, 0o700);
        assert!(refused().1.ends_with("which is starting"));
        first
            .write_address("0.0.0.0:8080".parse().unwrap())
            .unwrap();
        assert!(
            refused().1.ends_with("which listens on 0.0.0.0:8080") && refused().0 == Kind::Busy
        );
        drop(first);
        lock(&data).unwrap();
    }

    #[test]
    fn readers_do_not_keep_a_hub_from_starting() {
        let dir = tempfile::tempdir().unwrap();
        let lock_file = dir.path().join(wire::HUB_LOCK);
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    disk::lock_holder(&lock_file);
                }
            });
            let all = (0..300).try_for_each(|_| lock(dir.path()).map(drop));
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            all.unwrap();
        });
    }

    #[test]
    fn only_its_own_directory_is_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        open_to_others(dir.path());
        drop(lock(dir.path()).unwrap());
        assert_eq!(std::fs::metadata(dir.path()).unwrap().mode() & 0o777, 0o700);
        open_to_others(dir.path());
        assert!(
            lock(dir.path())
                .map(drop)
                .unwrap_err()
                .to_string()
                .contains("chmod 700")
        );
        std::fs::write(dir.path().join(wire::LOCAL_KEY), "").unwrap();
        lock(dir.path()).unwrap();
    }
}
