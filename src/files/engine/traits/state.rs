//! The durable state of a synced directory: rows, intents, open keys and the cursor of the feed.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{CallResult, StagedFile};
use crate::files::plan::{BaseRow, LocalEntry, RemoteRow, Stamp};
use crate::wire::files::Hash;
use crate::wire::revision::Revision;

/// A planned change of the tree that may have happened. Written before the change, removed with its
/// result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intent {
    /// `staged` is to take the path. It did if its name is gone, or another file has it.
    Place {
        /// [`Feed::generation`] of the decision: its revisions mean nothing in a later one.
        generation: u64,
        row: RemoteRow,
        /// The mode of `staged`, if it differs from that of the row.
        mode: u32,
        /// The entry to replace.
        over: Option<LocalEntry>,
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
        what: LocalEntry,
        to: String,
        /// Moved into the trash: it must be exactly `what`, or it is moved back.
        trash: bool,
    },
    /// `from`, with everything below it, is to be renamed to `to`: to another spelling, or as a directory that was renamed
    /// on the hub. Both names have this row. If `from` is no longer listed, it was renamed.
    Rename { from: String, to: String },
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
    /// Whether a change of the path was begun whose outcome is not recorded.
    pub fn is_begun(&self) -> bool {
        self.intent.is_some() || self.key.is_some()
    }

    /// Whether work is left for the path, regardless of the tree.
    pub fn is_pending(&self) -> bool {
        self.is_begun() || !self.base.is_at(&self.remote)
    }

    /// The writes for a path whose file in the tree is no longer to be compared with its base: neither the base nor a change
    /// without a response describes it.
    pub fn without_base(&self, path: &str) -> impl Iterator<Item = Write> {
        let key = self.key.clone().map(|key| OpenKey { ours: false, ..key });
        let base = Write::Base(path.to_string(), BaseRow::default());
        std::iter::once(base).chain(key.map(Write::OpenKey))
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
pub struct DeleteToken {
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
    /// By [`hear`](super::super::rows::hear): never replaces a row by an older one. `listed`: also records
    /// that the full listing named this path.
    Remote {
        path: String,
        row: RemoteRow,
        listed: bool,
    },
    /// By [`hear_of_none`](super::super::rows::hear_of_none): the hub at `through` had no record of this path.
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
    /// [`set_back`](super::super::rows::set_back); removes approvals, later points and listed paths; keeps
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
    Approve(Vec<DeleteToken>),
}

/// The durable state of one synced directory.
pub trait State: Send + Sync {
    fn rows(&self, path: &str) -> CallResult<Rows>;
    /// Paths with any row strictly below a directory ("" is the root), in order, after `after` (a
    /// whole path, or ""), up to the limit.
    fn below(&self, dir: &str, after: &str, most: usize) -> CallResult<Vec<(String, Rows)>>;
    /// Paths whose base is a file or link with this hash (an index), up to the limit.
    fn with_hash(&self, hash: &Hash, most: usize) -> CallResult<Vec<String>>;
    /// Paths with a base or remote row that the listing has not named, in order, after `after`, up
    /// to the limit.
    fn not_listed(&self, after: &str, most: usize) -> CallResult<Vec<String>>;
    fn feed(&self) -> CallResult<Feed>;
    /// The points of [`Write::Points`].
    fn points(&self) -> CallResult<Vec<Revision>>;
    /// Base rows that are files or links; the guard's share is a part of these.
    fn files(&self) -> CallResult<u64>;
    /// Deletes by minute since 1970.
    fn deletes(&self) -> CallResult<BTreeMap<u64, u32>>;
    fn approved(&self, token: &DeleteToken) -> CallResult<bool>;
    fn commit(&self, writes: &[Write]) -> CallResult<()>;
    /// Syncs with the next commit, or a little later; for writes that an open key or an intent leads to after their loss.
    fn commit_soon(&self, writes: &[Write]) -> CallResult<()>;
}
