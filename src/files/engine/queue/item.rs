//! A pending path in the queue, what to do with it, and how that ended.

use super::super::traits::DeleteToken;
use crate::wire::files::Hash;

/// Which work is taken first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precedence {
    /// Work that was begun before: intents and open keys.
    Begun,
    Change,
    /// Was to be carried out as a change, after all others.
    Postponed,
    /// New names that may have been moved with their directory, after it is known whether all of it was.
    Moved,
    Delete,
}

/// The direction of the work, so that a full connection in one direction does not delay the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// To the hub.
    Up,
    /// To the tree.
    Down,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueueState {
    New,
    Ready(Precedence, Direction),
    /// Waits for a neighbour, the hub's feed, or the next attempt.
    Waiting,
    /// Held by the guard.
    Held,
}

#[derive(Debug, Clone)]
pub(super) struct QueuedPath {
    /// The position in the order of offers, then in the order of finished examinations.
    pub(super) seq: u64,
    pub(super) stage: QueueState,
    /// Offered again while it was being worked on.
    pub(super) offered_again: bool,
    /// The hash of content that is new at this name, and where: the possible other half of a rename, or of a move between
    /// two directories.
    pub(super) fresh: Option<(Hash, Direction)>,
    /// Bytes of content that travel.
    pub(super) bytes: u64,
    /// Consecutive steps that changed something.
    pub(super) turns: u32,
}

/// What to do with a path that [`WorkQueue::next`](super::WorkQueue::next) returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    Examine,
    CarryOut,
}

/// How many paths a group has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupSize {
    /// Fewer than these are not carried out yet, but for a long file, which is a group of its own.
    pub least: usize,
    pub most: usize,
}

impl GroupSize {
    pub fn up_to(most: usize) -> GroupSize {
        GroupSize { least: 1, most }
    }
}

/// The result of an examination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    pub rank: Precedence,
    pub way: Direction,
    /// See [`QueuedPath`].
    pub fresh: Option<(Hash, Direction)>,
    /// See [`QueuedPath`].
    pub bytes: u64,
    /// The guard counts this delete.
    pub counted: Option<(DeleteToken, Hash)>,
}

/// How work on a path ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkEnd {
    Examined(Examined),
    /// In sync.
    Settled,
    /// Something was done: examine the path again.
    Progress,
    /// Not possible now; retry after the next wake-up. The named path must be handled first.
    Wait(Option<String>),
    /// To be carried out after the changes that are pending; if it was, it waits like a failed one.
    Postponed,
    Held,
    /// Dropped until it is offered again.
    Dropped,
}
