//! Which directories may be synced: none within another synced one, wherever the other is synced
//! from, and none of mesync's own.
//!
//! A path is not enough to tell: links and bind mounts give one directory several names. So
//! directories are compared by their place in their filesystem, and directories of other processes
//! are found by their markers. This module changes nothing.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Result};
use crate::relpath::OWN_DIR;

/// Directories that hold a system, or the files of other users. Directories below them are not
/// affected.
const WIDE: &[&str] = &[
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib32", "/lib64", "/libx32", "/media",
    "/mnt", "/opt", "/proc", "/root", "/run", "/sbin", "/sys", "/tmp", "/usr", "/var",
];

/// One name of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct DirectoryName {
    path: PathBuf,
    /// The mount point of the filesystem that contains the directory.
    mounted: PathBuf,
}

/// One line of /proc/self/mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    device: String,
    /// The directory of the filesystem that is mounted.
    root: PathBuf,
    at: PathBuf,
}

/// The mounts of this machine.
#[derive(Debug, Clone, Default)]
pub struct Mounts(Vec<Mount>);

impl Mounts {
    /// Without /proc there are none, and a directory has only the given name.
    pub fn read() -> Mounts {
        Mounts::parse(&std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
    }

    /// See proc_pid_mountinfo(5).
    fn parse(text: &str) -> Mounts {
        let mount = |line: &str| {
            let mut fields = line.split(' ');
            let device = fields.nth(2)?.to_string();
            Some(Mount {
                device,
                root: unescaped(fields.next()?),
                at: unescaped(fields.next()?),
            })
        };
        Mounts(text.lines().filter_map(mount).collect())
    }

    /// Mount points below a directory.
    fn below(&self, dir: &Path) -> BTreeSet<PathBuf> {
        self.0
            .iter()
            .map(|mount| &mount.at)
            .filter(|at| *at != dir && at.starts_with(dir))
            .cloned()
            .collect()
    }

    /// The filesystem, and the place in it. Of several mounts at one place, the last one is
    /// visible.
    fn place(&self, path: &Path) -> Option<(&str, PathBuf)> {
        let depth = |m: &&Mount| m.at.components().count();
        let mount = self
            .0
            .iter()
            .filter(|m| path.starts_with(&m.at))
            .max_by_key(depth)?;
        Some((
            &mount.device,
            mount.root.join(path.strip_prefix(&mount.at).ok()?),
        ))
    }

    /// All names of a directory, the given one first.
    fn names(&self, path: &Path) -> Vec<DirectoryName> {
        let Some((device, place)) = self.place(path) else {
            return vec![DirectoryName {
                path: path.to_path_buf(),
                mounted: PathBuf::from("/"),
            }];
        };
        let name = |m: &Mount| {
            let path = m.at.join(place.strip_prefix(&m.root).ok()?);
            (m.device == device && self.place(&path)?.1 == place).then(|| DirectoryName {
                path,
                mounted: m.at.clone(),
            })
        };
        let mut names: Vec<DirectoryName> = self.0.iter().filter_map(name).collect();
        names.sort_by_key(|n| n.path != path);
        names
    }

    /// Whether the directories are equal or one is within the other. Both are real paths.
    pub fn overlap(&self, one: &Path, other: &Path) -> bool {
        let within = |a: &Path, b: &Path| a.starts_with(b) || b.starts_with(a);
        match (self.place(one), self.place(other)) {
            (Some((device, a)), Some((other_device, b)))
                if device == other_device && within(&a, &b) =>
            {
                true
            }
            _ => within(one, other),
        }
    }

    /// Refuses a directory within another synced directory. `dir`: a real path.
    pub fn check_above(&self, dir: &Path) -> Result<()> {
        for DirectoryName { path, mounted } in self.names(dir) {
            // a synced directory ends where another filesystem is mounted
            let same = |up: &&Path| up.starts_with(&mounted) && device(up) == device(&path);
            if let Some(up) = path
                .ancestors()
                .skip(1)
                .take_while(same)
                .find(|up| has_marker(up))
            {
                let what = format!(
                    "will not sync {}: it is inside {}, which is synced separately",
                    dir.display(),
                    up.display()
                );
                return Err(Error::new(Kind::Settings, what).hint(after_removal(up)));
            }
        }
        Ok(())
    }
}

/// Reports when something is mounted or unmounted below a directory.
pub struct Mounting {
    /// `None`: the system has no such events.
    file: Option<File>,
    dir: PathBuf,
    below: BTreeSet<PathBuf>,
}

impl Mounting {
    pub fn watch(dir: &Path) -> Mounting {
        let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
        Mounting {
            file: File::open("/proc/self/mountinfo").ok(),
            below: Mounts::read().below(&dir),
            dir,
        }
    }

    /// Readable, with an error, when a mount of this machine has changed (proc_pid_mounts(5)).
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// Whether that change was below the directory.
    pub fn has_changed(&mut self) -> bool {
        let now = Mounts::read().below(&self.dir);
        now != std::mem::replace(&mut self.below, now.clone())
    }
}

/// Refuses a new directory that contains a synced one. Those created later are excluded by each
/// scan.
pub fn check_below(dir: &Path) -> Result<()> {
    let mut todo = vec![dir.to_path_buf()];
    while let Some(dir_here) = todo.pop() {
        if dir_here != dir && has_marker(&dir_here) {
            let what = format!(
                "will not sync {}: it contains {}, which is synced separately",
                dir.display(),
                dir_here.display()
            );
            return Err(Error::new(Kind::Settings, what).hint(after_removal(&dir_here)));
        }
        // an unreadable directory is skipped, a missing one needs no check
        for entry in std::fs::read_dir(&dir_here).into_iter().flatten().flatten() {
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_dir
                && entry.file_name() != OWN_DIR
                && entry.metadata().is_ok_and(|m| Some(m.dev()) == device(dir))
            {
                todo.push(entry.path());
            }
        }
    }
    Ok(())
}

fn after_removal(dir: &Path) -> String {
    format!(
        "sync only one of the two; if {0} is not synced any more, or is a copy, remove {0}/{OWN_DIR}",
        dir.display()
    )
}

/// The directory of the marker is enough: the marker itself appears a moment later, and that of
/// another user cannot be read.
fn has_marker(dir: &Path) -> bool {
    std::fs::symlink_metadata(dir.join(OWN_DIR)).is_ok_and(|meta| meta.is_dir())
}

fn device(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|m| m.dev())
}

/// Why a directory needs a confirmation before it is synced: it holds more than a user is likely to
/// mean. `dir`: a real path.
pub fn too_wide(dir: &Path, home: Option<&Path>, private: &[PathBuf]) -> Option<String> {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let is_wide = WIDE
        .iter()
        .any(|wide| dir == Path::new(wide) || dir == real(Path::new(wide)));
    if is_wide {
        return Some("it is a directory of the system".into());
    }
    if home.is_some_and(|home| real(home).starts_with(dir))
        || dir.parent() == Some(Path::new("/home"))
    {
        return Some("it is a home directory and contains keys and settings".into());
    }
    let own = private
        .iter()
        .map(|own| real(own))
        .find(|own| own.starts_with(dir))?;
    Some(format!(
        "it contains {}, mesync's own data, which is not synced",
        own.display()
    ))
}

/// The fields encode spaces and similar characters as three octal digits.
fn unescaped(field: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let (mut out, mut rest) = (Vec::new(), field.as_bytes());
    while let Some((first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|d| std::str::from_utf8(d).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => (out.push(byte), rest = &after[3..]),
            None => (out.push(*first), rest = after),
        };
    }
    std::ffi::OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
21 1 8:1 / / rw - ext4 /dev/sda1 rw
22 21 8:2 / /srv rw - ext4 /dev/sdb1 rw
23 21 8:2 /data/sub /mnt/bound rw - ext4 /dev/sdb1 rw
24 21 8:1 /home /mnt/with\\040space rw - ext4 /dev/sda1 rw
25 22 8:3 / /srv/data/disk rw - ext4 /dev/sdc1 rw";

    #[test]
    fn directories_overlap_under_any_of_their_names() {
        let mounts = Mounts::parse(MOUNTS);
        let check = |one: &str, other: &str, wants: bool| {
            assert_eq!(
                mounts.overlap(Path::new(one), Path::new(other)),
                wants,
                "{one} {other}"
            );
            assert_eq!(
                mounts.overlap(Path::new(other), Path::new(one)),
                wants,
                "{other} {one}"
            );
        };
        check("/a", "/a", true);
        check("/a", "/a/b", true);
        check("/a", "/ab", false);
        check("/srv/data", "/mnt/bound", true);
        check("/srv/data/sub/x", "/mnt/bound", true);
        check("/srv/data/other", "/mnt/bound", false);
        check("/home/me", "/mnt/with space/me/share", true);
        check("/srv/data/disk", "/mnt/bound", false);
    }

    #[test]
    fn a_directory_has_a_name_for_each_mount_that_shows_it() {
        let mounts = Mounts::parse(MOUNTS);
        let names = |path: &str| {
            mounts
                .names(Path::new(path))
                .into_iter()
                .map(|n| n.path)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            names("/mnt/bound/x"),
            [Path::new("/mnt/bound/x"), Path::new("/srv/data/sub/x")]
        );
        assert_eq!(
            names("/home/me"),
            [Path::new("/home/me"), Path::new("/mnt/with space/me")]
        );
        // hidden by another mount
        assert_eq!(names("/srv/data/disk"), [Path::new("/srv/data/disk")]);
        assert_eq!(Mounts::default().names(Path::new("/x")).len(), 1);
    }

    #[test]
    fn a_marker_above_or_below_refuses_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let sub = root.join("a/b/c");
        std::fs::create_dir_all(&sub).unwrap();
        let mounts = Mounts::read();
        assert!(mounts.check_above(&sub).is_ok() && check_below(&root).is_ok());
        // a regular file with that name is no marker
        std::fs::write(root.join("a/b/.mesync"), "x").unwrap();
        assert!(mounts.check_above(&sub).is_ok() && check_below(&root).is_ok());
        std::fs::remove_file(root.join("a/b/.mesync")).unwrap();
        std::fs::create_dir(root.join("a/b/.mesync")).unwrap();
        let above = mounts.check_above(&sub).unwrap_err();
        assert!(
            above.what.contains("a/b, which is synced separately") && above.kind == Kind::Settings,
            "{above}"
        );
        assert!(
            check_below(&root)
                .unwrap_err()
                .what
                .contains("a/b, which is synced separately")
        );
        assert!(
            mounts.check_above(&root.join("a/b")).is_ok() && check_below(&root.join("a/b")).is_ok()
        );
    }

    #[test]
    fn homes_and_system_directories_need_a_word() {
        let private = [PathBuf::from("/data/base/state")];
        let check = |dir: &str, wants: bool| {
            assert_eq!(
                too_wide(Path::new(dir), Some(Path::new("/users/me")), &private).is_some(),
                wants,
                "{dir}"
            );
        };
        for dir in [
            "/",
            "/etc",
            "/home",
            "/home/you",
            "/users",
            "/users/me",
            "/data",
            "/data/base",
            "/tmp",
        ] {
            check(dir, true);
        }
        for dir in [
            "/srv",
            "/users/me/share",
            "/etc/app",
            "/home/you/share",
            "/tmp/x",
            "/data/other",
        ] {
            check(dir, false);
        }
    }
}
