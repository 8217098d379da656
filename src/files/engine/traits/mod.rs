//! The environment of the engine: the hub, the tree, the durable state and the time, as four traits
//! and the values they exchange.
//!
//! No logic: the rules that every store of rows must follow are in [`super::rows`]. File contents
//! never pass through here: they are named by path and hash, and [`ContentTransfer`] moves them. All
//! methods may be called from several threads at once; the engine never calls two of them for one
//! path, or for a path and its ancestor, at the same time.
//!
//! *Durable on return*: a change made by a method of [`Tree`] or [`State`] is on the disk when the
//! method returns (an implementation may let several callers share one sync). After an error the
//! change may or may not have happened: the engine's intents cover both.

mod state;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use uuid::Uuid;

use crate::error::Error;
use crate::files::plan::{Entry, LocalEntry, RemoteRow, Stamp};
use crate::wire::revision::{Revision, Tag};

pub use state::*;

/// Why a call failed, by what happens next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A retry may succeed: no connection, 401, 403, 408, 429, 5xx, 507. The path stays pending.
    Later(Error),
    /// This path fails until something about it changes: 400, 413, 422, no permission to read or
    /// write it. For a change of the hub it means that nothing was done: it is used for responses
    /// of the hub, and for requests that were never sent.
    Refused(Error),
    /// The disk is full: downloads pause, the rest continues.
    NoSpace(Error),
    /// This file does not fit into the free space; a smaller one may.
    TooLarge(Error),
    /// Stop: the state cannot be read or written, or the root was unmounted or replaced.
    Fatal(Error),
}

pub type CallResult<T> = Result<T, Fault>;

impl std::convert::From<Fault> for Error {
    fn from(fault: Fault) -> Error {
        match fault {
            Fault::Later(e)
            | Fault::Refused(e)
            | Fault::NoSpace(e)
            | Fault::TooLarge(e)
            | Fault::Fatal(e) => e,
        }
    }
}

// -- the hub ------------------------------------------------------------------------------------------------------------------

/// One page of `GET /api/files/changes`, names checked and records turned into rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowPage {
    /// The hub's latest revision.
    pub rev: u64,
    pub epoch: Uuid,
    pub more: bool,
    /// Sent by the hub with every page of a full listing.
    pub began: Option<u64>,
    /// The revision after which the next page begins, even if its record is not in `rows`; `None`: the page had none.
    pub last: Option<u64>,
    /// The tag of `rev`.
    pub tag: Tag,
    /// Ordered by `rev`.
    pub rows: Vec<(String, RemoteRow)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangesResult {
    Page(RowPage),
    /// 410: the hub has forgotten tombstones after the cursor; a full listing is needed.
    Gone,
    /// 409: the hub does not have the revision that was `newest`. Its disk was set back.
    OtherHistory,
}

/// The row that the hub must have for a change to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectedRow {
    /// `If-Match`.
    Rev(Revision),
    /// `If-None-Match: *`: no record, or a tombstone.
    Nothing,
}

/// The old name of a renamed file and the revision that it must have: both names change in one
/// transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldPath {
    pub path: String,
    pub rev: Revision,
}

/// One change to the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubChange {
    pub path: String,
    /// `Idempotency-Key`. One call may send the same change several times with it.
    pub key: Uuid,
    pub condition: ExpectedRow,
    /// `None`: delete. Otherwise `kind`, `mode`, `mtime`, `size` and `hash` as the hub is to store
    /// them (mode and mtime may differ from those of the local file).
    pub entry: Option<Entry>,
    pub from: Option<OldPath>,
    /// The newest revision that the client knows: a hub that was set back since then changes
    /// nothing, and the change is retried later.
    pub newest: Revision,
}

/// The hub's response to a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeOutcome {
    /// 2xx: the resulting rows, one for each name (two for a rename).
    Made(Vec<(String, RemoteRow)>),
    /// Like `Made`, but only recorded here: the server cannot store such an entry.
    Noted(Vec<(String, RemoteRow)>),
    /// 412: a condition failed; with the conflicting row, if the hub has one (`null`: `None`).
    Differs(Option<(String, RemoteRow)>),
    /// 409 for a void key, 404 for a delete of nothing: not done, and it never will be.
    NotDone,
    /// The local file is no longer what was to be sent; nothing was changed on the hub.
    FileChanged,
}

/// The response to `GET /api/idempotency/{key}`, from one transaction of the hub.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyRows {
    /// The rows that the key made; `None`: none, and the key is void from now on.
    pub made: Option<Vec<(String, RemoteRow)>>,
    /// The current records of those names. A name of `made` that is missing here has no record any
    /// more.
    pub current: Vec<(String, RemoteRow)>,
}

/// The hub, one method for each call. It repeats at once what may be repeated (stale connections),
/// and waits for nothing else.
pub trait HubCalls: Send + Sync {
    /// With `kinds=all`. `after` 0 begins a full listing; `began` is passed with its later pages.
    /// Rows with names that [`crate::relpath::check`] refuses may be omitted and logged; the engine
    /// believes none of them. `newest`: the newest revision known from any response, because the
    /// rows may describe the history up to it.
    fn changes(
        &self,
        after: u64,
        newest: Revision,
        began: Option<u64>,
    ) -> CallResult<ChangesResult>;
    /// The last of these points of that epoch that is part of the hub's history; 0: none, or the
    /// hub cannot tell.
    fn common(&self, epoch: Uuid, points: &[Revision]) -> CallResult<u64>;
    /// `newest`: see [`HubChange`].
    fn ask(&self, key: Uuid, newest: Revision) -> CallResult<KeyRows>;
}

// -- bytes between tree and hub -----------------------------------------------------------------------------------------------

/// Where to look for the bytes of a file, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentSource {
    /// A file of the tree that had this hash when it was last examined.
    Tree(String),
    /// A file in the trash with this hash in its name (`conflict::trash_name`).
    Trash,
    /// Download it.
    Hub,
}

/// A complete file under a temporary name in the directory of its final name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedFile {
    /// The whole name, relative to the root.
    pub temp: String,
    pub stamp: Stamp,
}

/// A change to send.
#[derive(Debug, Clone, Copy)]
pub struct SendItem<'a> {
    pub change: &'a HubChange,
    /// The file, link or empty directory whose bytes are sent. `None`: the change needs no bytes from this machine: a
    /// delete, or a commit of known content.
    pub local: Option<&'a LocalEntry>,
}

/// A version of the hub to create under a temporary name.
#[derive(Debug, Clone, Copy)]
pub struct StageItem<'a> {
    pub path: &'a str,
    pub row: &'a RemoteRow,
    /// Kind, mode and mtime as they are to be set.
    pub entry: &'a Entry,
    pub sources: &'a [ContentSource],
    /// Missing ancestors from the top down, each with its mode.
    pub above: &'a [(&'a str, u32)],
}

/// Transfers bytes; the only part that sees them. Each call returns one result for each item, in their order; the items
/// may share requests and syncs.
pub trait ContentTransfer: Send + Sync {
    /// Sends changes to the hub. Hashes what it reads; if that is not the hash of `change.entry`, or `stat` no longer
    /// shows `local.stamp` afterwards: [`ChangeOutcome::FileChanged`], and nothing is committed. With `change.from`, and when only
    /// the mode changed, the hub has the chunks and no bytes are sent.
    fn send(&self, all: &[SendItem<'_>]) -> Vec<CallResult<ChangeOutcome>>;
    /// Creates temporary names beside the paths, synced, with the bytes of the rows from the first source that has them;
    /// verifies the hashes and creates missing ancestors. `None`: no source has the bytes (any more), or an ancestor is
    /// not a directory. Leaves no temporary name behind unless it returns it.
    fn stage(&self, all: &[StageItem<'_>]) -> Vec<CallResult<Option<StagedFile>>>;
}

// -- the tree -----------------------------------------------------------------------------------------------------------------

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// Nothing, including when an ancestor is not a directory (links are not followed).
    Absent,
    Here(LocalEntry),
    /// Sockets, devices, unreadable files, and paths below an unreadable directory: neither present
    /// nor absent. Nothing is decided about them.
    Unknown(Error),
}

/// Two names that the disk folds into one: nothing can be named `wanted` while `there` exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameCollision {
    /// The path, or a directory above it.
    pub wanted: String,
    /// As the directory lists it; `None`: unknown.
    pub there: Option<String>,
}

/// The result of a rename.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameOutcome {
    Done,
    /// The new name exists, or cannot exist because an ancestor is not a directory.
    Taken,
    /// The file to move or to replace is not the expected one; nothing was done.
    Changed,
}

/// The synced directory. Names are relative; `.mesync/` belongs to the program. Links are never
/// followed. A name exists if its directory lists it: of several names that the disk folds into
/// one, only that name exists.
pub trait Tree: Send + Sync {
    /// Examines a name, including temporary names and the trash. The content is hashed unless
    /// `stat` shows exactly a stamp of `known`, whose entry then has the hash; an implementation
    /// may remember more hashes by stamp.
    fn examine(&self, path: &str, known: Option<(&Stamp, &Entry)>) -> CallResult<Presence>;
    /// What `stat` shows, without reading the content; `None`: the name does not exist.
    fn stamp(&self, path: &str) -> CallResult<Option<Stamp>>;
    /// Whether a directory is empty, apart from this program's temporary names; also `true` for
    /// anything that is not a directory.
    fn is_empty(&self, dir: &str) -> CallResult<bool>;
    /// Calls `visit` with every name below a directory, without following links, until it returns
    /// `false`. This program's own names are left out.
    fn below(&self, dir: &str, visit: &mut dyn FnMut(&str) -> CallResult<bool>) -> CallResult<()>;
    /// Gives a staged file its final name. If `over` is `None`: with RENAME_NOREPLACE. Otherwise
    /// checks again that the name shows that stamp, and exchanges the two; the replaced file then
    /// has the temporary name, and the caller examines it. A directory is replaced only if it is
    /// empty. If the filesystem cannot exchange: reads the file again, then replaces it. `stage`
    /// has created the ancestors; they are created again if they are gone.
    fn place(
        &self,
        path: &str,
        staged: &StagedFile,
        over: Option<&LocalEntry>,
    ) -> CallResult<RenameOutcome>;
    /// [`Tree::place`] for several paths, which may share syncs.
    fn place_all(
        &self,
        all: &[(&str, &StagedFile, Option<&LocalEntry>)],
    ) -> Vec<CallResult<RenameOutcome>> {
        all.iter()
            .map(|(path, staged, over)| self.place(path, staged, *over))
            .collect()
    }
    /// Renames with RENAME_NOREPLACE. `expected`: checks first that `from` shows this stamp. The
    /// parent of a name below the trash is created as needed, no other.
    fn shift(&self, from: &str, to: &str, expected: Option<&Stamp>) -> CallResult<RenameOutcome>;
    /// [`Tree::shift`] for several paths, which may share syncs.
    fn shift_all(&self, all: &[(&str, &str, &Stamp)]) -> Vec<CallResult<RenameOutcome>> {
        all.iter()
            .map(|(from, to, expected)| self.shift(from, to, Some(expected)))
            .collect()
    }
    /// Whether a name has the bytes of `what`, given that its stamp is the same except for ctime.
    /// Reads the file where the stamp is not enough.
    fn holds(&self, path: &str, what: &LocalEntry) -> CallResult<bool>;
    /// Whether the disk keeps modes as they are set.
    fn keeps_modes(&self) -> bool;
    /// The existing name that keeps a missing path from being created, because the disk folds both
    /// into one.
    fn name_collision(&self, path: &str) -> CallResult<Option<NameCollision>>;
    /// Renames a file or directory to another spelling that the disk folds into the same name.
    fn respell(&self, there: &str, wanted: &str) -> CallResult<RenameOutcome>;
    /// Sets the mode of an entry that shows this stamp, and the time if it is a file. Returns the
    /// new stamp; `None`: the entry has changed. The mode of the stamp is the one that resulted
    /// from this call, never one that was set later.
    fn set_metadata(
        &self,
        path: &str,
        expected: &Stamp,
        mode: u32,
        mtime: Option<i64>,
    ) -> CallResult<Option<Stamp>>;
    /// [`Tree::set_metadata`] for several paths (path, expected stamp, mode, time), which may share syncs.
    fn set_metadata_all(&self, all: &[(&str, &Stamp, u32, i64)]) -> Vec<CallResult<Option<Stamp>>> {
        all.iter()
            .map(|(path, expected, mode, mtime)| {
                self.set_metadata(path, expected, *mode, Some(*mtime))
            })
            .collect()
    }
    /// Makes durable what an earlier call that failed, or a process that was killed, may have
    /// changed: the entry of this name in its directory, and the mode of the entry. A missing name
    /// is no error.
    fn sync(&self, path: &str) -> CallResult<()>;
    /// Removes a temporary name or one in the trash, with its content. A missing name is no error.
    fn discard(&self, temp: &str) -> CallResult<()>;
    /// `rmdir`. `false`: the directory is missing or not empty.
    fn remove_dir(&self, path: &str) -> CallResult<bool>;
    /// Whether the ignore rules exclude this path, by itself or through an ancestor.
    fn ignored(&self, path: &str) -> bool;
}

/// A completed change, for the log, the status and the hooks. Nothing depends on it: after a crash
/// it may be reported twice, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompletedChange<'a> {
    /// The hub has the local version. `from`: the file was renamed.
    Sent {
        path: &'a str,
        from: Option<&'a str>,
    },
    /// A local delete was applied on the hub.
    Deleted { path: &'a str },
    /// The hub's version was applied here.
    Placed { path: &'a str },
    /// A delete on the hub was applied here: the file is in the trash, or it was an empty
    /// directory.
    Removed { path: &'a str },
    /// A conflict: the local version has another name now.
    SetAside { path: &'a str, copy: &'a str },
}

/// Time and randomness, which a simulation controls, and the receiver of completed changes.
pub trait Ambient: Send + Sync {
    fn now(&self) -> SystemTime;
    /// From a clock that is never set, since an arbitrary start.
    fn elapsed(&self) -> Duration;
    /// A UUID that was never used before.
    fn fresh(&self) -> Uuid;
    /// A path is about to be synced, for this reason.
    fn decided(&self, _path: &str, _why: &'static str) {}
    fn done(&self, _: CompletedChange<'_>) {}
}

/// The complete environment of an engine.
pub struct Env {
    pub hub: Arc<dyn HubCalls>,
    pub transfer: Arc<dyn ContentTransfer>,
    pub tree: Arc<dyn Tree>,
    pub state: Arc<dyn State>,
    pub ambient: Arc<dyn Ambient>,
}
