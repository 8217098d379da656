//! Lists, restores and removes the files in `.mesync/trash/`. A daemon removes files that have
//! been there for a month, the oldest files beyond a tenth of the disk, and abandoned downloads.
//!
//! It does not move files to the trash. A wrong clock makes it keep files longer, or remove the
//! newest sooner.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::AtFlags;

use super::conflict::{self, TRASH};
use super::engine::traits::{CallResult, Fault, RenameOutcome, Tree};
use super::plan::{DIR_MODE, parent};
use super::state::DiskState;
use super::tree::DiskTree;
use super::tree::partial;
use super::tree::root::{self, InodeType, fault, show};
use crate::clock;
use crate::error::{Error, Kind};
use crate::steady::ClockReading;

/// The note with the clocks at the last run.
const CLOCK: &str = "clock";
const TRASH_KEPT_TIME: Duration = Duration::from_secs(30 * 86_400);
const PARTIAL_KEPT: Duration = Duration::from_secs(7 * 86_400);
/// The part of the disk that the trash may use: 10 is a tenth.
const PART: u64 = 10;
/// Entries that one run reads, at most; later runs read the others.
pub const MAX_ENTRIES_READ: usize = 100_000;

/// A file in the trash, or a candidate for removal elsewhere. Sorted by time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TrashedFile {
    /// Since when it is there, in nanoseconds since 1970.
    pub since: i64,
    pub bytes: u64,
    /// Its name in the trash.
    pub name: String,
}

impl TrashedFile {
    /// Its old path, or the last component of one that was too long. `None`: this program did not name the file.
    pub fn old_path(&self) -> Option<String> {
        conflict::trashed_path(&self.name)
    }
}

/// The result of [`empty`].
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct EmptiedTrash {
    pub removed: u64,
    /// Directories with content, which are left for the user to check.
    pub kept: u64,
}

/// The files in the trash, the oldest first, at most [`MAX_ENTRIES_READ`].
pub fn list(tree: &DiskTree) -> CallResult<Vec<TrashedFile>> {
    let open = match tree.root().through(TRASH) {
        Err(e) if root::absent(&e) => return Ok(Vec::new()),
        other => other.map_err(|e| fault("list", TRASH, &e))?,
    };
    let all = read(tree, TRASH, &open, MAX_ENTRIES_READ);
    let mut all = all.map_err(|e| fault("list", TRASH, &e))?;
    all.sort();
    Ok(all)
}

/// The file with this name in the trash.
pub fn file(tree: &DiskTree, name: &str) -> CallResult<Option<TrashedFile>> {
    let failed = |e: io::Error| fault("list", TRASH, &e);
    if matches!(name, "" | "." | "..") || name.contains('/') {
        return Ok(None);
    }
    match tree.root().through(TRASH) {
        Err(e) if root::absent(&e) => Ok(None),
        open => entry(&open.map_err(failed)?, name).map_err(failed),
    }
}

/// Moves a file from the trash to a path that does not exist; missing directories are made.
pub fn restore(tree: &DiskTree, name: &str, path: &str) -> CallResult<()> {
    let refused = |why: String| {
        Fault::Refused(Error::new(
            Kind::Failed,
            format!("cannot restore {}: {why}", crate::disk::show(path.as_ref())),
        ))
    };
    tree.make_directories(&[(parent(path).unwrap_or_default(), DIR_MODE)])?;
    match tree.shift(&format!("{TRASH}/{name}"), path, None)? {
        RenameOutcome::Done => Ok(()),
        RenameOutcome::Changed => Err(refused("the file is no longer in the trash".into())),
        RenameOutcome::Taken if tree.stamp(path)?.is_some() => Err(refused("it exists".into())),
        RenameOutcome::Taken => Err(refused("a directory above it is a file or a link".into())),
    }
}

/// Removes everything from the trash, except directories with content.
pub fn empty(tree: &DiskTree) -> CallResult<EmptiedTrash> {
    let mut emptied = EmptiedTrash::default();
    loop {
        let all = list(tree)?;
        let before = emptied.removed;
        for file in &all {
            let path = format!("{TRASH}/{}", file.name);
            tree.discard(&path)?;
            emptied.removed += u64::from(tree.stamp(&path)?.is_none());
        }
        // a list that is full may have been cut
        if all.len() < MAX_ENTRIES_READ || emptied.removed == before {
            emptied.kept = list(tree)?.len() as u64;
            return Ok(emptied);
        }
    }
}

/// See the module documentation. `Fatal` if the directory was replaced.
pub fn expire(tree: &DiskTree, state: &DiskState) -> CallResult<()> {
    tree.check()?;
    let reading = ClockReading::after(state.note(CLOCK)?.as_deref());
    state.set_note(CLOCK, &reading.to_text())?;
    let believed = |kept| reading.is_believed(kept).then_some(kept);
    let space = rustix::fs::fstatvfs(tree.root().fd())
        .map_err(|e| fault("ask for the size of", "the disk", &e.into()))?;
    let room = space.f_blocks.saturating_mul(space.f_frsize) / PART;
    let now = i64::try_from(clock::millis(clock::now()))
        .unwrap_or(i64::MAX)
        .saturating_mul(1_000_000);
    remove(tree, TRASH, |all| {
        due(all, now, believed(TRASH_KEPT_TIME), room)
    })?;
    tree.trashed.forget();
    remove(tree, partial::DIR, |all| {
        due(all, now, believed(PARTIAL_KEPT), u64::MAX)
    })
}

/// Which candidates to remove: those that are too old, then the oldest until the rest fits. `kept`
/// `None`: no age is known.
fn due(mut all: Vec<TrashedFile>, now: i64, kept: Option<Duration>, room: u64) -> Vec<TrashedFile> {
    all.sort();
    let kept = kept
        .and_then(|kept| i64::try_from(kept.as_nanos()).ok())
        .unwrap_or(i64::MAX);
    let mut sum: u64 = all.iter().map(|file| file.bytes).sum();
    let goes = |file: &TrashedFile| {
        // the age of a file from before the clock was set is unknown
        let since = file.since.max(0).unsigned_abs();
        let known = clock::is_plausible(clock::from_millis(since / 1_000_000));
        let goes = known && now.saturating_sub(file.since) > kept || sum > room;
        sum -= if goes { file.bytes } else { 0 };
        goes
    };
    all.into_iter().filter(goes).collect()
}

fn remove(
    tree: &DiskTree,
    dir: &str,
    choose: impl FnOnce(Vec<TrashedFile>) -> Vec<TrashedFile>,
) -> CallResult<()> {
    let failed = |e: io::Error| fault("empty", dir, &e);
    let open: OwnedFd = match tree.root().through(dir) {
        Err(e) if root::absent(&e) => return Ok(()),
        other => other.map_err(failed)?,
    };
    let all = read(tree, dir, &open, MAX_ENTRIES_READ).map_err(failed)?;
    for TrashedFile { name, .. } in choose(all) {
        match rustix::fs::unlinkat(&open, name.as_str(), AtFlags::empty()) {
            // content of a deleted directory is left for the user to check
            Ok(())
            | Err(rustix::io::Errno::NOENT | rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => {
            }
            Err(e) => {
                return Err(Fault::Later(Error::io(
                    format!("remove {dir}/{name}"),
                    &e.into(),
                )));
            }
        }
    }
    Ok(())
}

/// The entries of an open directory, at most so many.
fn read(tree: &DiskTree, dir: &str, open: &OwnedFd, most: usize) -> io::Result<Vec<TrashedFile>> {
    let mut all = Vec::new();
    tree.entries(dir, &mut |name, _| {
        if let Ok(name) = name.to_str() {
            all.extend(entry(open, name)?);
        }
        Ok(all.len() < most)
    })?;
    Ok(all)
}

fn entry(open: &OwnedFd, name: &str) -> io::Result<Option<TrashedFile>> {
    Ok(show(open, name)?.map(|shown| TrashedFile {
        // the last rename was the move to the trash
        since: shown.stamp.ctime,
        bytes: if shown.what == InodeType::File {
            shown.stamp.size
        } else {
            0
        },
        name: name.to_string(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tree::OpenedTree;

    #[test]
    fn a_file_beyond_those_that_are_read_is_found_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let trash = dir.path().join(TRASH);
        std::fs::create_dir_all(&trash).unwrap();
        for n in 0..5 {
            std::fs::write(trash.join(n.to_string()), "x").unwrap();
        }
        let OpenedTree::Ready(tree) = DiskTree::open_to_look(dir.path(), None, &[], &[]).unwrap()
        else {
            panic!("held")
        };
        let open = tree.root().through(TRASH).unwrap();
        assert_eq!(read(&tree, TRASH, &open, 3).unwrap().len(), 3);
        assert_eq!(list(&tree).unwrap().len(), 5);
        for n in 0..5 {
            let found = file(&tree, &n.to_string()).unwrap().unwrap();
            assert_eq!((found.name, found.bytes), (n.to_string(), 1));
        }
        for other in ["5", "", "../trash/1", ".", ".."] {
            assert_eq!(file(&tree, other).unwrap(), None, "{other}");
        }
    }

    #[test]
    fn old_files_are_removed_and_then_the_oldest_until_the_rest_fits() {
        let day = 86_400 * 1_000_000_000;
        let now = 20_454 * day;
        let check_for = |kept: Option<Duration>, all: &[(i64, u64)], room: u64, wants: &[i64]| {
            let all = all
                .iter()
                .map(|(age, bytes)| TrashedFile {
                    since: now - age * day,
                    bytes: *bytes,
                    name: age.to_string(),
                })
                .collect();
            let got: Vec<i64> = due(all, now, kept, room)
                .iter()
                .map(|file| file.name.parse().unwrap())
                .collect();
            assert_eq!(got, wants);
        };
        let check =
            |all: &[_], room, wants: &[_]| check_for(Some(TRASH_KEPT_TIME), all, room, wants);
        check(&[(1, 10), (29, 10), (31, 10)], 100, &[31]);
        check(&[(1, 10), (29, 10), (31, 10)], 15, &[31, 29]);
        check(&[(1, 10), (2, 10), (3, 10)], 9, &[3, 2, 1]);
        // from before the clock was set: removed only for want of room
        check(&[(20_000, 10), (31, 10)], 100, &[31]);
        check(&[(20_000, 10), (29, 10)], 15, &[20_000]);
        // the clock was set back
        check(&[(-5, 10), (0, 10)], 100, &[]);
        // the clock was set a moment ago
        check_for(None, &[(29, 10), (400, 10)], 100, &[]);
        check_for(None, &[(29, 10), (400, 10)], 15, &[400]);
    }
}
