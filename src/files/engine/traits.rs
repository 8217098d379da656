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

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use uuid::Uuid;

use crate::error::Error;
use crate::files::plan::{BaseRow, Entry, Local, RemoteRow, Stamp};
use crate::wire::files::Hash;
use crate::wire::revision::{Revision, Tag};

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

pub type Called<T> = Result<T, Fault>;

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
    /// The rev of the last record, even if that record is not in `rows`; `None`: the page had none.
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
    /// Only from [`ContentTransfer::upload`]: the local file is no longer what was to be sent; nothing was
    /// changed on the hub.
    Moved,
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
    fn changes(&self, after: u64, newest: Revision, began: Option<u64>) -> Called<ChangesResult>;
    /// The last of these points of that epoch that is part of the hub's history; 0: none, or the
    /// hub cannot tell.
    fn common(&self, epoch: Uuid, points: &[Revision]) -> Called<u64>;
    /// Changes that need no bytes from this machine: deletes, and commits of known content.
    fn change(&self, change: &HubChange) -> Called<ChangeOutcome>;
    /// `newest`: see [`HubChange`].
    fn ask(&self, key: Uuid, newest: Revision) -> Called<KeyRows>;
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

/// Transfers bytes; the only part that sees them.
pub trait ContentTransfer: Send + Sync {
    /// Sends the file, link or empty directory `change.path` to the hub. Hashes what it reads; if
    /// that is not the hash of `change.entry`, or `stat` no longer shows `local.stamp` afterwards:
    /// [`ChangeOutcome::Moved`], and nothing is committed. With `change.from`, and when only the mode
    /// changed, the hub has the chunks and no bytes are sent.
    fn upload(&self, change: &HubChange, local: &Local) -> Called<ChangeOutcome>;
    /// Creates a temporary name beside `path` that holds `entry` (kind, mode and mtime set, synced)
    /// with the bytes of `row`, from the first source that has them; verifies the hash and creates
    /// missing ancestors. `None`: no source has the bytes (any more), or an ancestor is not a
    /// directory. Leaves no temporary name behind unless it returns it. `above`: missing ancestors
    /// from the top down, each with its mode.
    fn stage(
        &self,
        path: &str,
        row: &RemoteRow,
        entry: &Entry,
        sources: &[ContentSource],
        above: &[(&str, u32)],
    ) -> Called<Option<StagedFile>>;
}

// -- the tree -----------------------------------------------------------------------------------------------------------------

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Nothing, including when an ancestor is not a directory (links are not followed).
    Absent,
    Here(Local),
    /// Sockets, devices, unreadable files, and paths below an unreadable directory: neither present
    /// nor absent. Nothing is decided about them.
    Unknown(Error),
}

/// Two names that the disk folds into one: nothing can be named `wanted` while `there` exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Twin {
    /// The path, or a directory above it.
    pub wanted: String,
    /// As the directory lists it; `None`: unknown.
    pub there: Option<String>,
}

/// The result of a rename.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
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
    fn look(&self, path: &str, known: Option<(&Stamp, &Entry)>) -> Called<Look>;
    /// What `stat` shows, without reading the content; `None`: the name does not exist.
    fn stamp(&self, path: &str) -> Called<Option<Stamp>>;
    /// Whether a directory is empty, apart from this program's temporary names; also `true` for
    /// anything that is not a directory.
    fn is_empty(&self, dir: &str) -> Called<bool>;
    /// Calls `visit` with every name below a directory, without following links, until it returns
    /// `false`. This program's own names are left out.
    fn below(&self, dir: &str, visit: &mut dyn FnMut(&str) -> Called<bool>) -> Called<()>;
    /// Gives a staged file its final name. If `over` is `None`: with RENAME_NOREPLACE. Otherwise
    /// checks again that the name shows that stamp, and exchanges the two; the replaced file then
    /// has the temporary name, and the caller examines it. A directory is replaced only if it is
    /// empty. If the filesystem cannot exchange: reads the file again, then replaces it. `stage`
    /// has created the ancestors; they are created again if they are gone.
    fn place(&self, path: &str, staged: &StagedFile, over: Option<&Local>) -> Called<Moved>;
    /// Renames with RENAME_NOREPLACE. `expected`: checks first that `from` shows this stamp. The
    /// parent of a name below the trash is created as needed, no other.
    fn shift(&self, from: &str, to: &str, expected: Option<&Stamp>) -> Called<Moved>;
    /// Whether a name has the bytes of `what`, given that its stamp is the same except for ctime.
    /// Reads the file where the stamp is not enough.
    fn holds(&self, path: &str, what: &Local) -> Called<bool>;
    /// Whether the disk keeps modes as they are set.
    fn keeps_modes(&self) -> bool;
    /// The existing name that keeps a missing path from being created, because the disk folds both
    /// into one.
    fn twin(&self, path: &str) -> Called<Option<Twin>>;
    /// Renames a file or directory to another spelling that the disk folds into the same name.
    fn respell(&self, there: &str, wanted: &str) -> Called<Moved>;
    /// Sets the mode of an entry that shows this stamp, and the time if it is a file. Returns the
    /// new stamp; `None`: the entry has changed. The mode of the stamp is the one that resulted
    /// from this call, never one that was set later.
    fn set_metadata(
        &self,
        path: &str,
        expected: &Stamp,
        mode: u32,
        mtime: Option<i64>,
    ) -> Called<Option<Stamp>>;
    /// Makes durable what an earlier call that failed, or a process that was killed, may have
    /// changed: the entry of this name in its directory, and the mode of the entry. A missing name
    /// is no error.
    fn sync(&self, path: &str) -> Called<()>;
    /// Removes a temporary name or one in the trash, with its content. A missing name is no error.
    fn discard(&self, temp: &str) -> Called<()>;
    /// `rmdir`. `false`: the directory is missing or not empty.
    fn remove_dir(&self, path: &str) -> Called<bool>;
    /// Whether the ignore rules exclude this path, by itself or through an ancestor.
    fn ignored(&self, path: &str) -> bool;
}

// -- the durable state --------------------------------------------------------------------------------------------------------

/// A planned change of the tree that may have happened. Written before the change, removed with its
/// result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intent {
    /// `staged` is to take the path. It did if its name is gone, or another inode has it.
    Place {
        /// [`Feed::generation`] of the decision: its revisions mean nothing in a later one.
        generation: u64,
        row: RemoteRow,
        /// The mode of `staged`, if it differs from that of the row.
        mode: u32,
        /// The entry to replace.
        over: Option<Local>,
        staged: StagedFile,
    },
    /// The path is to get this mode and, if it is a file, this time. If one of them is not as it
    /// was, the change happened, or a user has changed it since.
    Metadata {
        generation: u64,
        was: Stamp,
        mode: u32,
        /// The same as in `was`: it stays.
        mtime: i64,
        /// The resulting base of the path. `seen` `None`: the stamp that `stat` shows then.
        then: BaseRow,
    },
    /// Nothing took the path: the temporary name and the directories created for it are to be
    /// removed.
    Clear { temp: String },
    /// The path is to be moved to `to`: into the trash, or to the name of a conflict copy. If `to`
    /// exists, it was.
    Leave {
        generation: u64,
        /// The resulting base of the path.
        then: BaseRow,
        what: Local,
        to: String,
        /// Moved into the trash: it must be exactly `what`, or it is moved back.
        trash: bool,
    },
    /// `there`, with everything below it, is to be renamed to its other spelling `wanted`; both
    /// names have this row. If `there` is no longer listed, it was renamed.
    Respell { there: String, wanted: String },
}

/// A change that was sent or is about to be sent, and whose response is unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenKey {
    pub key: Uuid,
    /// The path of the change and, for a rename, the old one: all have this row.
    pub names: Vec<String>,
    /// The change describes this tree, so its result becomes the base.
    pub ours: bool,
    /// What `stat` showed for the entry that was sent.
    pub seen: Option<Stamp>,
}

/// Everything known about a path except its entry in the tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    pub base: BaseRow,
    pub remote: RemoteRow,
    pub intent: Option<Intent>,
    pub key: Option<OpenKey>,
}

impl Rows {
    /// Whether work is left for the path, regardless of the tree.
    pub fn is_pending(&self) -> bool {
        self.intent.is_some() || self.key.is_some() || !self.base.is_at(&self.remote)
    }
}

/// Up to where the hub's changes are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Feed {
    /// Nil: never connected.
    pub epoch: Uuid,
    /// Incremented whenever all rows are forgotten.
    pub generation: u64,
    /// Rows up to this rev are stored.
    pub cursor: u64,
    /// A full listing is in progress.
    pub listing: bool,
    /// The hub's `rev` at the first page of the listing.
    pub began: Option<u64>,
}

/// An approved delete: of one path, while base and hub are at these revisions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token {
    pub path: String,
    pub base: u64,
    pub remote: u64,
}

/// One change of the state. All writes of one [`State::commit`] happen together or not at all, in
/// order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// A default row may be removed from the table.
    Base(String, BaseRow),
    /// By [`hear`](super::rows::hear): never replaces a row by an older one. `listed`: also records
    /// that the full listing named this path.
    Remote {
        path: String,
        row: RemoteRow,
        listed: bool,
    },
    /// By [`hear_of_none`](super::rows::hear_of_none): the hub at `through` had no record of this path.
    Unlisted {
        path: String,
        through: u64,
    },
    Intent(String, Option<Intent>),
    /// The same row for every name of the change.
    OpenKey(OpenKey),
    /// Removes the key from the names that (still) have it.
    CloseKey(OpenKey),
    Feed(Feed),
    /// Forget which paths the listing named.
    NothingListed,
    /// Another hub: removes all base rows, remote rows, approvals, points and listed paths; keeps
    /// intents and open keys.
    ForgetAll,
    /// The hub was set back to this revision: changes each row by
    /// [`set_back`](super::rows::set_back); removes approvals, later points and listed paths; keeps
    /// intents and open keys.
    SetBack {
        through: u64,
    },
    /// Known revisions, in order: they later tell up to where the hub has this history. If there
    /// are more than [`crate::wire::revision::POINTS`], some of the older ones are dropped.
    Points(Vec<Revision>),
    /// For the guard: one more delete in this minute since 1970.
    Deleted {
        minute: u64,
    },
    /// Minutes before this one are no longer needed.
    ForgetDeletes {
        before: u64,
    },
    /// Replaces all approvals.
    Approve(Vec<Token>),
}

/// The durable state of one synced directory.
pub trait State: Send + Sync {
    fn rows(&self, path: &str) -> Called<Rows>;
    /// Paths with any row strictly below a directory ("" is the root), in order, after `after` (a
    /// whole path, or ""), up to the limit.
    fn below(&self, dir: &str, after: &str, most: usize) -> Called<Vec<(String, Rows)>>;
    /// Paths whose base is a file or link with this hash (an index), up to the limit.
    fn with_hash(&self, hash: &Hash, most: usize) -> Called<Vec<String>>;
    /// Paths with a base or remote row that the listing has not named, in order, after `after`, up
    /// to the limit.
    fn not_listed(&self, after: &str, most: usize) -> Called<Vec<String>>;
    fn feed(&self) -> Called<Feed>;
    /// The points of [`Write::Points`].
    fn points(&self) -> Called<Vec<Revision>>;
    /// Base rows that are files or links; the guard's share is a part of these.
    fn files(&self) -> Called<u64>;
    /// Deletes by minute since 1970.
    fn deletes(&self) -> Called<BTreeMap<u64, u32>>;
    fn approved(&self, token: &Token) -> Called<bool>;
    fn commit(&self, writes: &[Write]) -> Called<()>;
    /// Syncs with the next commit, or a little later; for writes that an open key or an intent leads to after their loss.
    fn commit_soon(&self, writes: &[Write]) -> Called<()>;
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
