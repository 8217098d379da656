//! The three-way merge of one path: the last version in sync, the local version, the hub's version,
//! and the resulting action.
//!
//! Pure: values in, a decision out. It knows nothing of other paths (directories, renames), of the
//! delete guard, or of how a decision is carried out. Content is compared by hash, never by time.

use uuid::Uuid;

pub use crate::wire::files::{DIR_MODE, DIR_READABLE};
use crate::wire::files::{EntryKind, Hash};
use crate::wire::revision::{Revision, Tag};

use crate::config::watch::SyncMode;

/// Mode bits that are compared and applied. A link has no mode of its own: it has all of these
/// bits.
pub const MODE: u32 = 0o777;

/// The entry of a name, on either side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub kind: EntryKind,
    /// The hash of the file's bytes, of the link's target, or of nothing for a directory.
    pub hash: Hash,
    pub size: u64,
    /// [`MODE`] bits only.
    pub mode: u32,
    /// Nanoseconds since 1970. For a file, it is merged separately, like the mode.
    pub mtime: i64,
}

impl Entry {
    pub fn new(kind: EntryKind, hash: Hash, size: u64, mode: u32, mtime: i64) -> Entry {
        let mode = if kind == EntryKind::Symlink {
            MODE
        } else {
            mode & MODE
        };
        Entry {
            kind,
            hash,
            size,
            mode,
            mtime,
        }
    }

    pub fn dir(mode: u32, mtime: i64) -> Entry {
        Entry::new(EntryKind::Dir, Hash::of(b""), 0, mode, mtime)
    }

    pub fn is_dir(&self) -> bool {
        self.kind == EntryKind::Dir
    }

    /// Whether they are equal except for mode and time.
    pub fn same_body(&self, other: &Entry) -> bool {
        self.kind == other.kind && self.hash == other.hash
    }
}

/// What `stat` shows for a name: any change to a file, including its mode, changes one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub inode: u64,
    pub size: u64,
    /// Nanoseconds since 1970, both times.
    pub mtime: i64,
    /// 0: unknown; it equals nothing, so the content is read again.
    pub ctime: i64,
    /// [`MODE`] bits only.
    pub mode: u32,
}

impl Stamp {
    /// Whether it is the same file with the same bytes, across a rename, which changes the ctime on
    /// Linux.
    pub fn same_but_for_ctime(&self, other: &Stamp) -> bool {
        Stamp { ctime: 0, ..*self } == Stamp { ctime: 0, ..*other }
    }

    /// Whether it may be the same file in a copy of the directory, in which all inodes are others.
    pub fn is_copy_of(&self, other: &Stamp) -> bool {
        let inode = other.inode;
        Stamp { inode, ..*self }.same_but_for_ctime(other)
    }

    /// Whether it is the same directory with the same mode: its size and times change with its
    /// content.
    pub fn same_dir(&self, other: &Stamp) -> bool {
        (self.inode, self.mode) == (other.inode, other.mode)
    }
}

/// The local entry of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalEntry {
    /// As found: `mode` and `mtime` are those of the stamp.
    pub entry: Entry,
    pub stamp: Stamp,
}

/// The last version in sync of a path. The default: never in sync.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BaseRow {
    pub rev: u64,
    /// The path was in sync at a later revision than `rev`, to which the hub was set back. Nothing
    /// is done about the path until the hub has reported its current row
    /// ([`super::engine::rows::hear`]).
    pub lost: bool,
    /// The hub's entry; `None`: neither side had one.
    pub entry: Option<Entry>,
    /// What `stat` showed when the two were in sync. A local change is a difference from *this*
    /// stamp, so a filesystem that cannot keep a mode or a time does not send it back and forth.
    /// `None`: unknown; the content is read.
    pub seen: Option<Stamp>,
}

impl BaseRow {
    /// Whether the hub has no newer row than the one in sync. All rows belong to one history.
    pub fn is_at(&self, remote: &RemoteRow) -> bool {
        self.rev == remote.rev && !self.lost
    }
}

impl RemoteRow {
    pub fn at(&self) -> Revision {
        Revision {
            rev: self.rev,
            tag: self.tag,
        }
    }
}

/// The newest known row of the hub for a path. The default: never there, or forgotten there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemoteRow {
    pub rev: u64,
    /// The tag of that revision.
    pub tag: Tag,
    /// `None`: deleted.
    pub entry: Option<Entry>,
    /// The hub's id of that name, used to download it.
    pub id: Uuid,
    /// The machine that wrote it.
    pub host: Option<String>,
    /// For a deleted file that was renamed: the new name.
    pub renamed_to: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    Nothing,
    /// Missing on both sides: only write the base.
    Forget,
    /// Send the local version to the hub.
    Upload,
    /// Apply the hub's version here.
    Download,
    /// Two edits: the local version is renamed, the hub's keeps the name.
    Conflict,
    /// Equal bytes: write the base, and merge the mode.
    Adopt,
    /// Deleted here: delete it on the hub.
    Delete,
    /// Deleted on the hub: move the local version to the trash.
    Trash,
}

/// A decision, with the resulting mode and a short reason for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    pub action: Action,
    pub mode: u32,
    pub why: &'static str,
}

/// Decides about one path. A remote row with the revision of the base is not a change.
pub fn plan(base: &BaseRow, local: Option<&LocalEntry>, remote: &RemoteRow) -> Plan {
    let same = base.is_at(remote);
    let theirs = if same { &base.entry } else { &remote.entry };
    match (local, theirs) {
        (None, _) => absent_here(&base.entry, theirs.as_ref(), same),
        (Some(local), None) => gone_there(base, local),
        (Some(local), Some(theirs)) => both(base, local, theirs, same),
    }
}

fn absent_here(base: &Option<Entry>, theirs: Option<&Entry>, same: bool) -> Plan {
    let decided = |action, mode, why| Plan { action, mode, why };
    match (base, theirs) {
        (None, None) if same => decided(Action::Nothing, 0, "nothing on either side"),
        (_, None) => decided(Action::Forget, 0, "gone on both sides"),
        (None, Some(r)) => decided(Action::Download, r.mode, "new on the hub"),
        (Some(_), Some(_)) if same => decided(Action::Delete, 0, "deleted here"),
        (Some(b), Some(r)) if r.same_body(b) => decided(
            Action::Delete,
            0,
            "deleted here, only its mode was changed on the hub",
        ),
        (Some(_), Some(r)) => decided(
            Action::Download,
            r.mode,
            "deleted here, but edited on the hub",
        ),
    }
}

fn gone_there(base: &BaseRow, local: &LocalEntry) -> Plan {
    let mode = local_mode(base, local);
    let decided = |action, why| Plan { action, mode, why };
    let Some(b) = &base.entry else {
        return decided(Action::Upload, "new here");
    };
    if local.entry.same_body(b) {
        decided(Action::Trash, "deleted on the hub")
    } else {
        decided(Action::Upload, "deleted on the hub, but edited here")
    }
}

fn both(base: &BaseRow, local: &LocalEntry, theirs: &Entry, same: bool) -> Plan {
    let mine = local_mode(base, local);
    let edited_here = base.entry.is_none_or(|b| !local.entry.same_body(&b));
    let edited_there = base.entry.is_none_or(|b| !theirs.same_body(&b));
    // the mode is merged separately; if both sides changed it, the hub's wins
    let was = base
        .entry
        .map(|b| b.mode)
        .or(theirs.is_dir().then_some(DIR_MODE));
    let theirs_unchanged = was == Some(theirs.mode);
    let merged = if theirs_unchanged { mine } else { theirs.mode };
    // a mode is not merged between entries of different kinds
    let mixed = local.entry.kind != theirs.kind;
    let decided = |action, mode, why| Plan { action, mode, why };
    if same {
        return match base.entry {
            _ if edited_here => decided(Action::Upload, mine, "edited here"),
            Some(b) if mine != b.mode => decided(Action::Upload, mine, "mode changed here"),
            _ if is_retimed(base, local) => decided(Action::Upload, mine, "time changed here"),
            _ => decided(Action::Nothing, mine, "in sync"),
        };
    }
    if local.entry.same_body(theirs) {
        return decided(Action::Adopt, merged, "equal on both sides");
    }
    match (edited_here, edited_there) {
        (true, true) => decided(Action::Conflict, theirs.mode, "edited on both sides"),
        (true, false) => decided(
            Action::Upload,
            if mixed { mine } else { merged },
            "edited here, only its mode was changed on the hub",
        ),
        (false, _) => decided(
            Action::Download,
            if mixed { theirs.mode } else { merged },
            "edited on the hub",
        ),
    }
}

/// Limits a plan to the actions that are carried out if changes are synced in one direction only; other
/// differences remain.
///
/// *Send-only*: nothing changes here. A change by others on the hub remains until the same path is
/// edited here; then the local version replaces it, and the hub keeps it as an older version.
/// *Receive-only*: nothing is sent. A local edit becomes a conflict copy when the hub has a newer
/// version.
pub fn one_way(
    decided: Plan,
    mode: SyncMode,
    base: &BaseRow,
    local: Option<&LocalEntry>,
    remote: &RemoteRow,
) -> Plan {
    let nothing = |why| Plan {
        action: Action::Nothing,
        mode: 0,
        why,
    };
    let ours = local.map_or(decided.mode, |l| local_mode(base, l));
    match (mode, decided.action) {
        (SyncMode::SendOnly, Action::Download | Action::Trash) => {
            nothing("not taken from the hub: send-only")
        }
        (SyncMode::SendOnly, Action::Conflict) => Plan {
            action: Action::Upload,
            mode: ours,
            why: "edited on both sides, and send-only",
        },
        (SyncMode::SendOnly, _) => Plan {
            mode: ours,
            ..decided
        },
        (SyncMode::ReceiveOnly, Action::Upload | Action::Delete) => {
            nothing("not sent to the hub: receive-only")
        }
        (SyncMode::ReceiveOnly, _) => Plan {
            mode: remote.entry.map_or(decided.mode, |r| r.mode),
            ..decided
        },
        (SyncMode::TwoWay, _) => decided,
    }
}

/// The intended local mode: a mode that the filesystem could not keep is not a change.
pub fn local_mode(base: &BaseRow, local: &LocalEntry) -> u32 {
    match (&base.entry, &base.seen) {
        (Some(b), Some(seen)) if seen.mode == local.entry.mode && b.kind == local.entry.kind => {
            b.mode
        }
        _ => local.entry.mode,
    }
}

/// Like [`local_mode`], for the modification time.
pub fn local_mtime(base: &BaseRow, local: &LocalEntry) -> i64 {
    match &base.entry {
        Some(b)
            if local.entry.same_body(b)
                && base.seen.is_none_or(|seen| seen.mtime == local.entry.mtime) =>
        {
            b.mtime
        }
        _ => local.entry.mtime,
    }
}

/// Whether only the time of a file was changed here: set after the file was closed, as unpacking
/// and `cp -p` do.
pub fn is_retimed(base: &BaseRow, local: &LocalEntry) -> bool {
    let file = |b: &Entry| b.kind == EntryKind::File && local.entry.same_body(b);
    base.entry
        .filter(file)
        .is_some_and(|b| local_mtime(base, local) != b.mtime)
}

/// The time that a file with equal bytes gets from the hub; `None`: it keeps its own. If both sides
/// changed it, the hub's wins. If nothing was in sync before, both keep their times.
pub fn time_from(
    base: &BaseRow,
    local: &LocalEntry,
    remote: &RemoteRow,
    mode: SyncMode,
) -> Option<i64> {
    let (was, theirs) = base.entry.zip(remote.entry)?;
    let changed = was.mtime != theirs.mtime
        && local.entry.kind == EntryKind::File
        && mode != SyncMode::SendOnly;
    changed.then_some(theirs.mtime)
}

/// The parent directory of a path; `None` in the root.
pub fn parent(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(dir, _)| dir)
}

/// Whether `path` is somewhere below the directory `dir`.
pub fn is_below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir)
        .is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests;
