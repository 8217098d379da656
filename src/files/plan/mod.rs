//! The three-way merge of one path: the last version in sync, the local one, the hub's one, and the action.
//!
//! Pure: values in, a decision out. It knows neither neighbours (directories, renames), nor the guard against mass deletion,
//! nor how anything is carried out. Content is compared by hash, never by time.

use uuid::Uuid;

pub use crate::wire::files::{DIR_MODE, DIR_READABLE};
use crate::wire::files::{Hash, Kind};
use crate::wire::revision::{Revision, Tag};

use crate::config::watch::Mode;

/// Bits of a mode that are compared and applied. Links have no mode of their own: theirs is all of these.
pub const MODE: u32 = 0o777;

/// What a name holds, on either side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    /// Of the bytes of a file, of the text of a link's target, of nothing for a directory.
    pub hash: Hash,
    pub size: u64,
    /// [`MODE`] bits only.
    pub mode: u32,
    /// Nanoseconds since 1970. That of a file is a dimension of its own, as the mode is.
    pub mtime: i64,
}

impl Entry {
    pub fn new(kind: Kind, hash: Hash, size: u64, mode: u32, mtime: i64) -> Entry {
        let mode = if kind == Kind::Symlink {
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
        Entry::new(Kind::Dir, Hash::of(b""), 0, mode, mtime)
    }

    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
    }

    /// Equal but for mode and time.
    pub fn same_body(&self, other: &Entry) -> bool {
        self.kind == other.kind && self.hash == other.hash
    }
}

/// What `stat` shows of a name: any change to a file, its mode included, changes one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub inode: u64,
    pub size: u64,
    /// Nanoseconds since 1970, both times.
    pub mtime: i64,
    /// 0: unknown, equal to nothing, so that the content is looked at again.
    pub ctime: i64,
    /// [`MODE`] bits only.
    pub mode: u32,
}

impl Stamp {
    /// The same file with the same bytes, before and after a rename, which changes the ctime on Linux.
    pub fn same_but_for_ctime(&self, other: &Stamp) -> bool {
        Stamp { ctime: 0, ..*self } == Stamp { ctime: 0, ..*other }
    }

    /// The same directory with the same mode: its size and times change with its content.
    pub fn same_dir(&self, other: &Stamp) -> bool {
        (self.inode, self.mode) == (other.inode, other.mode)
    }
}

/// The local entry of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    /// As found: `mode` and `mtime` are those of the stamp.
    pub entry: Entry,
    pub stamp: Stamp,
}

/// What was last in sync at a path. The default: never anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BaseRow {
    pub rev: u64,
    /// The hub was set back to `rev`, and this was in sync after it: there is no such revision any more. What the hub has
    /// instead is still to be heard ([`super::engine::rows::hear`]); until then nothing is done about the path.
    pub lost: bool,
    /// The hub's; `None`: both sides had nothing.
    pub entry: Option<Entry>,
    /// What `stat` showed when the two were in sync: a local change is a difference from *this*, so a filesystem that
    /// cannot keep a mode or a time does not send it back and forth. `None`: unknown, the content is looked at.
    pub seen: Option<Stamp>,
}

impl BaseRow {
    /// Whether the hub has nothing new: its row is the one that was in sync. All rows are of one history.
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

/// The hub's latest row that is known of a path. The default: never there, or forgotten there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemoteRow {
    pub rev: u64,
    /// Of that revision.
    pub tag: Tag,
    /// `None`: deleted.
    pub entry: Option<Entry>,
    /// The hub's id of that name, to download it by.
    pub id: Uuid,
    /// Who wrote it.
    pub host: Option<String>,
    /// Of a deleted file: its new name, if it was renamed.
    pub renamed_to: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    Nothing,
    /// Gone on both sides: write the base only.
    Forget,
    /// Send the local version to the hub.
    Upload,
    /// Put the hub's here.
    Download,
    /// Two edits: ours takes another name, the hub's keeps this one.
    Conflict,
    /// Equal bytes: write the base, and merge the mode.
    Adopt,
    /// Gone here: delete it on the hub.
    Delete,
    /// Gone on the hub: move ours to the trash.
    Trash,
}

/// A decision with the mode that the path ends with, and its reason in a few words for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    pub action: Action,
    pub mode: u32,
    pub why: &'static str,
}

/// Decides about one path. A remote row with the revision of the base says nothing new.
pub fn plan(base: &BaseRow, local: Option<&Local>, remote: &RemoteRow) -> Plan {
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

fn gone_there(base: &BaseRow, local: &Local) -> Plan {
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

fn both(base: &BaseRow, local: &Local, theirs: &Entry, same: bool) -> Plan {
    let mine = local_mode(base, local);
    let edited_here = base.entry.is_none_or(|b| !local.entry.same_body(&b));
    let edited_there = base.entry.is_none_or(|b| !theirs.same_body(&b));
    // the mode is a dimension of its own; both changed it: the hub's
    let was = base
        .entry
        .map(|b| b.mode)
        .or(theirs.is_dir().then_some(DIR_MODE));
    let theirs_unchanged = was == Some(theirs.mode);
    let merged = if theirs_unchanged { mine } else { theirs.mode };
    // but it does not go from one kind to another
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

/// What of a plan is carried out where changes go one way only; the rest differs and stays so.
///
/// *Send-only*: nothing changes here. What others did on the hub stays until the same is edited here: then ours takes its
/// place, and theirs is a version there. *Receive-only*: nothing is sent. What was edited here makes way as a conflict copy
/// when the hub has something new.
pub fn one_way(
    decided: Plan,
    mode: Mode,
    base: &BaseRow,
    local: Option<&Local>,
    remote: &RemoteRow,
) -> Plan {
    let nothing = |why| Plan {
        action: Action::Nothing,
        mode: 0,
        why,
    };
    let ours = local.map_or(decided.mode, |l| local_mode(base, l));
    match (mode, decided.action) {
        (Mode::SendOnly, Action::Download | Action::Trash) => {
            nothing("not taken from the hub: send-only")
        }
        (Mode::SendOnly, Action::Conflict) => Plan {
            action: Action::Upload,
            mode: ours,
            why: "edited on both sides, and send-only",
        },
        (Mode::SendOnly, _) => Plan {
            mode: ours,
            ..decided
        },
        (Mode::ReceiveOnly, Action::Upload | Action::Delete) => {
            nothing("not sent to the hub: receive-only")
        }
        (Mode::ReceiveOnly, _) => Plan {
            mode: remote.entry.map_or(decided.mode, |r| r.mode),
            ..decided
        },
        (Mode::TwoWay, _) => decided,
    }
}

/// The mode that is meant here: what the filesystem could not keep was not changed by anybody.
pub fn local_mode(base: &BaseRow, local: &Local) -> u32 {
    match (&base.entry, &base.seen) {
        (Some(b), Some(seen)) if seen.mode == local.entry.mode && b.kind == local.entry.kind => {
            b.mode
        }
        _ => local.entry.mode,
    }
}

/// As [`local_mode`], for the time of the last change.
pub fn local_mtime(base: &BaseRow, local: &Local) -> i64 {
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

/// The time of a file was changed here, and nothing else: set after it was closed, as unpacking and `cp -p` do.
pub fn is_retimed(base: &BaseRow, local: &Local) -> bool {
    let file = |b: &Entry| b.kind == Kind::File && local.entry.same_body(b);
    base.entry
        .filter(file)
        .is_some_and(|b| local_mtime(base, local) != b.mtime)
}

/// The time that a file with equal bytes gets from the hub; `None`: it keeps its own. Both changed it: the hub's. Where nothing
/// was in sync before, both keep what they have.
pub fn time_from(base: &BaseRow, local: &Local, remote: &RemoteRow, mode: Mode) -> Option<i64> {
    let (was, theirs) = base.entry.zip(remote.entry)?;
    let changed =
        was.mtime != theirs.mtime && local.entry.kind == Kind::File && mode != Mode::SendOnly;
    changed.then_some(theirs.mtime)
}

/// The directory that a name is in; `None` in the root.
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
