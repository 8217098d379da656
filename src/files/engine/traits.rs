//! What the engine stands on: the hub, the tree, the durable state, and time; four traits and the values they exchange.
//!
//! No logic: the rules that every store of rows must share are in [`super::rows`]. File contents never pass through here: they
//! are named by path and hash, and [`Transfer`] moves them. All methods may be called from several threads at once; the engine
//! sees to it that no two of them are at one path, or at a path and one above it.
//!
//! *Durable on return*: what a method of [`Tree`] or [`State`] has changed when it returns is on the disk (an implementation
//! may let several callers share one sync). An error means that it may or may not have happened: the engine's intents cover
//! both.

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
    /// The same again may work: no connection, 408, 429, 5xx, 507, 401 and 403 too. The path stays due.
    Later(Error),
    /// This path cannot be done until something about it changes: 400, 413, 422, no permission to read or write it. Of a change
    /// of the hub it says that nothing was done: it is for answers of the hub, and for what never left.
    Refused(Error),
    /// The disk is full: downloads pause, the rest continues.
    NoSpace(Error),
    /// This one does not fit into what is free; a smaller one may.
    TooLarge(Error),
    /// Stop: the state cannot be read or written, the root is not what it was (unmounted, replaced).
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
pub struct Page {
    /// The hub's latest revision.
    pub rev: u64,
    pub epoch: Uuid,
    pub more: bool,
    /// Given by the hub with every page of a full listing.
    pub began: Option<u64>,
    /// The rev of its last record, also if that was left out of `rows`; `None`: it had none.
    pub last: Option<u64>,
    /// Of `rev`.
    pub tag: Tag,
    /// In the order of `rev`.
    pub rows: Vec<(String, RemoteRow)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    Page(Page),
    /// 410: tombstones after the cursor are forgotten; a full listing is needed.
    Gone,
    /// 409: the hub does not have the revision that was `newest`. Its disk was set back.
    OtherHistory,
}

/// What must stand on the hub for a change to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// `If-Match`.
    Rev(Revision),
    /// `If-None-Match: *`: no record, or a tombstone.
    Nothing,
}

/// The old name of what is put under a new one, and the revision that must stand there: both change in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    pub path: String,
    pub rev: Revision,
}

/// One change to the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub path: String,
    /// `Idempotency-Key`. The same change may be sent again with it within one call.
    pub key: Uuid,
    pub condition: Condition,
    /// `None`: delete. Else `kind`, `mode`, `mtime`, `size` and `hash` as they are to be on the hub (mode and mtime may differ
    /// from what the file here shows).
    pub entry: Option<Entry>,
    pub from: Option<From>,
    /// The latest revision that was heard of: a hub that was set back since changes nothing, and this is for later.
    pub newest: Revision,
}

/// The hub's answer to a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 2xx: the rows that it made, one a name (two for a rename).
    Made(Vec<(String, RemoteRow)>),
    /// As that, but it is only noted here: the server cannot keep such things.
    Noted(Vec<(String, RemoteRow)>),
    /// 412: a condition failed; the row that stands in the way, if the hub has one ("null": `None`).
    Differs(Option<(String, RemoteRow)>),
    /// 409 for a burnt key, 404 for a delete of nothing: not done, never will be.
    NotDone,
    /// Only from [`Transfer::upload`]: what is here is not what was to be sent, and nothing was changed on the hub.
    Moved,
}

/// The answer of `GET /api/idempotency/{key}`, in one transaction of the hub.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Asked {
    /// What it made; `None`: nothing, and the key is burnt from now on.
    pub made: Option<Vec<(String, RemoteRow)>>,
    /// The records of those names as they are now. A name of `made` that is missing here has no record any more.
    pub current: Vec<(String, RemoteRow)>,
}

/// The hub, one method a call. Repeats what may be repeated at once (stale connections); waits for nothing else.
pub trait Hub: Send + Sync {
    /// With `kinds=all`. `after` 0 begins a full listing; `began` goes with its later pages. Rows with names that
    /// [`crate::relpath::check`] refuses may be left out and logged; the engine believes none of them.
    /// `newest`: the latest revision that was heard of, from whatever answer: rows may tell of a history through it.
    fn changes(&self, after: u64, newest: Revision, began: Option<u64>) -> Called<Changes>;
    /// Through which revision the hub has the history of these points of that epoch; 0: they have nothing in common, or it cannot
    /// tell.
    fn common(&self, epoch: Uuid, points: &[Revision]) -> Called<u64>;
    /// Changes that need no bytes of this machine: deletes; commits of what the hub has (entries that are known to it).
    fn change(&self, change: &Change) -> Called<Answer>;
    /// `newest`: as in [`Change`].
    fn ask(&self, key: Uuid, newest: Revision) -> Called<Asked>;
}

// -- bytes between tree and hub -----------------------------------------------------------------------------------------------

/// Where the bytes of a file may be had, in the order to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file of the tree had this hash when it was last looked at.
    Tree(String),
    /// Something in the trash has this hash in its name (`conflict::trash_name`).
    Trash,
    /// Download it.
    Hub,
}

/// Something complete under a temporary name in the directory where it will stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged {
    /// Full name, below the root.
    pub temp: String,
    pub stamp: Stamp,
}

/// Moves bytes; the only part that sees them.
pub trait Transfer: Send + Sync {
    /// Puts the file `change.path` on the hub, or the link or empty directory. Hashes what it reads; if that is not
    /// `change.entry`'s hash, or `stat` no longer shows `local.stamp` afterwards: [`Answer::Moved`], nothing committed.
    /// With `change.from`, and where only the mode changed, the hub has the chunks: no bytes travel.
    fn upload(&self, change: &Change, local: &Local) -> Called<Answer>;
    /// Makes a temporary name beside `path` that holds `entry` (its kind, mode and mtime set, synced) with the bytes of
    /// `row`, from the first source that has them; verifies the hash. Makes missing directories above. `None`: no source
    /// has them (any more), or a name above is no directory. Leaves no temporary name behind unless it returns it.
    /// `above`: directories above that are missing, the upper ones first, each with the mode that it gets.
    fn stage(
        &self,
        path: &str,
        row: &RemoteRow,
        entry: &Entry,
        sources: &[Source],
        above: &[(&str, u32)],
    ) -> Called<Option<Staged>>;
}

// -- the tree -----------------------------------------------------------------------------------------------------------------

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Nothing, also when a name above is no directory (links are not followed).
    Absent,
    Here(Local),
    /// Sockets, devices; what cannot be read, or is below what cannot be read: neither there nor absent. Nothing is decided
    /// about it.
    Unknown(Error),
}

/// What a disk that folds names takes for one: nothing can have the name `wanted` while the other is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Twin {
    /// The path, or a directory above it.
    pub wanted: String,
    /// As the directory lists it; `None`: it cannot be told.
    pub there: Option<String>,
}

/// How a rename ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    Done,
    /// The new name exists, or nothing can stand there since a name above is no directory.
    Taken,
    /// What was to be moved, or replaced, is not what was expected: nothing was done.
    Changed,
}

/// The synced directory. Names are relative; below `.mesync/` is ours. Never follows a link. A name is there if its directory
/// lists it: where the disk takes several names for one, only one of them is.
pub trait Tree: Send + Sync {
    /// Looks at a name, temporary names and the trash included. The content is hashed unless `stat` shows exactly a stamp of
    /// `known`, whose entry then has the hash; an implementation may remember more hashes by stamp.
    fn look(&self, path: &str, known: Option<(&Stamp, &Entry)>) -> Called<Look>;
    /// What `stat` shows, without reading the content; `None`: nothing is there.
    fn stamp(&self, path: &str) -> Called<Option<Stamp>>;
    /// Whether there is nothing in a directory (our temporary names do not count); `true` also for what is no directory.
    fn is_empty(&self, dir: &str) -> Called<bool>;
    /// Calls `visit` with every name below a directory, links not followed, until it says `false`. Our own are left out.
    fn below(&self, dir: &str, visit: &mut dyn FnMut(&str) -> Called<bool>) -> Called<()>;
    /// Puts what is staged under its name. `over` `None`: with RENAME_NOREPLACE. Else re-checks that the name shows its
    /// stamp, and exchanges: what came out stands under the temporary name then and is for the caller to look at. A
    /// directory is only given way if it is empty. Where the filesystem has no exchange: read again, then replace.
    /// `stage` has made the directories above, but they may be gone again: make them.
    fn place(&self, path: &str, staged: &Staged, over: Option<&Local>) -> Called<Moved>;
    /// Renames with RENAME_NOREPLACE. `expected`: re-check that `from` shows this stamp just before. The directory of a name
    /// below the trash is made as needed, no other.
    fn shift(&self, from: &str, to: &str, expected: Option<&Stamp>) -> Called<Moved>;
    /// Whether a name has the bytes of `what`, whose stamp it shows but for ctime: read again where no stamp tells.
    fn holds(&self, path: &str, what: &Local) -> Called<bool>;
    /// Whether modes are kept as they are set.
    fn keeps_modes(&self) -> bool;
    /// What keeps a path that is not there from being made: another name that the disk takes for it.
    fn twin(&self, path: &str) -> Called<Option<Twin>>;
    /// Gives a file or directory another of the names that the disk takes for one.
    fn respell(&self, there: &str, wanted: &str) -> Called<Moved>;
    /// Sets the mode of what shows this stamp, and the time of a file. -> the new stamp; `None`: it is something else by now. Its
    /// mode is what became of this one, not one that somebody has set since.
    fn set_metadata(
        &self,
        path: &str,
        expected: &Stamp,
        mode: u32,
        mtime: Option<i64>,
    ) -> Called<Option<Stamp>>;
    /// Makes durable what earlier calls that ended with an error, or a process that was killed, may have changed: the entry of
    /// this name in its directory, and the mode of what it names. Fine if there is nothing.
    fn sync(&self, path: &str) -> Called<()>;
    /// Removes a temporary name, or one in the trash, and what it holds; fine if there is nothing.
    fn discard(&self, temp: &str) -> Called<()>;
    /// `rmdir`. `false`: there is none, or it is not empty of everything.
    fn remove_dir(&self, path: &str) -> Called<bool>;
    /// Whether the rules say that this path does not travel, by itself or because of a directory above.
    fn ignored(&self, path: &str) -> bool;
}

// -- the durable state --------------------------------------------------------------------------------------------------------

/// An act on the tree that was decided on and may have happened. Written before it, removed with its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intent {
    /// `staged` is to take the path. Its name gone, or another inode under it: it did.
    Place {
        /// [`Feed::generation`] when it was decided: later ones know nothing of its revisions.
        generation: u64,
        row: RemoteRow,
        /// The mode that `staged` has, where it is not the row's.
        mode: u32,
        /// What it was to replace.
        over: Option<Local>,
        staged: Staged,
    },
    /// The path is to get this mode and, of a file, this time. One of them is not what it was: it did, or a person has answered
    /// since.
    Metadata {
        generation: u64,
        was: Stamp,
        mode: u32,
        /// As in `was`: it stays.
        mtime: i64,
        /// The base of the path from then on. `seen` `None`: what `stat` shows then.
        then: BaseRow,
    },
    /// Nothing took the path: the temporary name is to go, and the directories that were made for it.
    Clear { temp: String },
    /// The path is to be moved to `to`: into the trash, or aside under the name of a conflict copy. `to` exists: it was.
    Leave {
        generation: u64,
        /// The base of the path from then on.
        then: BaseRow,
        what: Local,
        to: String,
        /// Into the trash: must be exactly `what`, or it goes back.
        trash: bool,
    },
    /// `there`, with all below it, is to get its other spelling `wanted`; both names have this row. `there` is not listed any
    /// more: it did.
    Respell { there: String, wanted: String },
}

/// A change that was sent, or is about to be, and whose answer is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenKey {
    pub key: Uuid,
    /// The path of the change and, of a rename, the old one: all have this same row.
    pub names: Vec<String>,
    /// It says what this tree has, so what it made becomes the base.
    pub ours: bool,
    /// What `stat` showed of what was sent.
    pub seen: Option<Stamp>,
}

/// All that is known of a path but what is in the tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    pub base: BaseRow,
    pub remote: RemoteRow,
    pub intent: Option<Intent>,
    pub key: Option<OpenKey>,
}

impl Rows {
    /// Whether something about the path is left to do, whatever the tree has.
    pub fn is_pending(&self) -> bool {
        self.intent.is_some() || self.key.is_some() || !self.base.is_at(&self.remote)
    }
}

/// How far the hub's changes are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Feed {
    /// Nil: never connected.
    pub epoch: Uuid,
    /// One more whenever all rows were forgotten.
    pub generation: u64,
    /// Rows up to this rev are stored.
    pub cursor: u64,
    /// A full listing is going on.
    pub listing: bool,
    /// The hub's `rev` at its first page.
    pub began: Option<u64>,
}

/// What exactly was approved: the delete of a path when base and hub were at these revisions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token {
    pub path: String,
    pub base: u64,
    pub remote: u64,
}

/// One change of the state. All writes of one [`State::commit`] happen together or not at all, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// A default row may be removed from the table.
    Base(String, BaseRow),
    /// By [`hear`](super::rows::hear): never replaces a row by an older one. `listed`: also remember that the full listing named this path.
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
    /// Removes it from those names that (still) have this key.
    CloseKey(OpenKey),
    Feed(Feed),
    /// Forget which paths the listing named.
    NothingListed,
    /// Another hub: all base rows, remote rows, approvals, points and listed paths go; intents and open keys stay.
    ForgetAll,
    /// The hub was set back to this revision: each row by [`set_back`](super::rows::set_back); approvals, later points and listed paths go; intents and
    /// open keys stay.
    SetBack {
        through: u64,
    },
    /// Revisions that were heard of, in order: by them it is told later through where the hub has this history. Some of the
    /// older ones make room when there are more than [`crate::wire::revision::POINTS`].
    Points(Vec<Revision>),
    /// The guard: one more delete in this minute since 1970.
    Deleted {
        minute: u64,
    },
    /// Counts of minutes before this one are not needed any more.
    ForgetDeletes {
        before: u64,
    },
    /// Replaces all approvals.
    Approve(Vec<Token>),
}

/// The durable state of one synced directory.
pub trait State: Send + Sync {
    fn rows(&self, path: &str) -> Called<Rows>;
    /// Paths with any row strictly below a directory ("" is the root), in order, after `after` (a whole path, or ""), at most
    /// so many.
    fn below(&self, dir: &str, after: &str, most: usize) -> Called<Vec<(String, Rows)>>;
    /// Paths whose base has a file or link with this hash (an index), at most so many.
    fn with_hash(&self, hash: &Hash, most: usize) -> Called<Vec<String>>;
    /// Paths with a base or remote row that the listing has not named, in order, after `after`, at most so many.
    fn not_listed(&self, after: &str, most: usize) -> Called<Vec<String>>;
    fn feed(&self) -> Called<Feed>;
    /// Those of [`Write::Points`].
    fn points(&self) -> Called<Vec<Revision>>;
    /// Base rows that are files or links: what the guard's share is counted from.
    fn files(&self) -> Called<u64>;
    /// Deletes by minute since 1970.
    fn deletes(&self) -> Called<BTreeMap<u64, u32>>;
    fn approved(&self, token: &Token) -> Called<bool>;
    fn commit(&self, writes: &[Write]) -> Called<()>;
}

/// What was done, for the log, the status and the hooks. Nothing hangs on it: after a crash it may be told twice, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done<'a> {
    /// The hub has what is here. `from`: it was renamed.
    Sent {
        path: &'a str,
        from: Option<&'a str>,
    },
    /// What was deleted here is deleted on the hub.
    Deleted { path: &'a str },
    /// The hub's version stands here.
    Placed { path: &'a str },
    /// What was deleted on the hub went to the trash, or was an empty directory.
    Removed { path: &'a str },
    /// Two edits: ours stands under another name now.
    SetAside { path: &'a str, copy: &'a str },
}

/// Time and chance, so that a simulation has them in hand; and who hears what was done.
pub trait Ambient: Send + Sync {
    fn now(&self) -> SystemTime;
    /// By a clock that is never set, since any beginning.
    fn elapsed(&self) -> Duration;
    /// A UUID that was never used.
    fn fresh(&self) -> Uuid;
    fn done(&self, _: Done<'_>) {}
}

/// The whole environment of an engine.
pub struct Env {
    pub hub: Arc<dyn Hub>,
    pub transfer: Arc<dyn Transfer>,
    pub tree: Arc<dyn Tree>,
    pub state: Arc<dyn State>,
    pub ambient: Arc<dyn Ambient>,
}
