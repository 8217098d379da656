//! The next step of a path: decided, and not begun. Data only.
//!
//! A step has a record that is durable before it begins (an open key or an intent), a call of the environment, and a result
//! to be stored: see [`super::group`].

use super::traits::{ContentSource, ExpectedRow, OldPath, Write};
use super::{Interrupted, PathResult, PathState};
use crate::files::plan::{BaseRow, Entry, LocalEntry};

/// What is to be done for a path.
pub(super) enum NextStep {
    /// Nothing more; whether something was done.
    Ended(bool),
    /// Only the state changes.
    Record(BaseRow),
    /// Like `Record`, if the loss of the record does no harm and the path was in sync before.
    Refresh(BaseRow),
    Send(OutgoingChange),
    Place(Placement),
    Leave(MoveAway),
    SetMetadata(MetadataChange),
}

/// A step of a path of a group.
pub(super) struct PathWork<W> {
    /// The position in the group.
    pub at: usize,
    pub path: String,
    pub known: PathState,
    pub what: W,
}

impl<W> PathWork<W> {
    pub(super) fn with<V>(self, what: impl FnOnce(W) -> V) -> PathWork<V> {
        PathWork {
            at: self.at,
            path: self.path,
            known: self.known,
            what: what(self.what),
        }
    }
}

/// The results of a group so far.
pub(super) struct Results(Vec<Option<PathResult>>);

impl Results {
    pub(super) fn of(count: usize) -> Results {
        Results((0..count).map(|_| None).collect())
    }

    /// The results of all works, in the order of the group.
    pub(super) fn all(self) -> impl Iterator<Item = PathResult> {
        let ended = self.0.into_iter();
        ended.map(|result| result.expect("each step ends with a result"))
    }

    pub(super) fn set<W>(&mut self, work: &PathWork<W>, result: PathResult) {
        self.0[work.at] = Some(result);
    }

    pub(super) fn set_at(&mut self, at: usize, result: PathResult) {
        self.0[at] = Some(result);
    }

    /// Keeps the works that go on; records why the others ended.
    pub(super) fn keep<W, T>(
        &mut self,
        all: Vec<PathWork<W>>,
        results: Vec<Result<T, Interrupted>>,
    ) -> Vec<(PathWork<W>, T)> {
        let mut kept = Vec::with_capacity(all.len());
        for (work, result) in all.into_iter().zip(results) {
            match result {
                Ok(value) => kept.push((work, value)),
                Err(stop) => self.set(&work, Err(stop)),
            }
        }
        kept
    }
}

/// The hub's version is to get its name.
pub(super) struct Placement {
    /// The entry to replace.
    pub over: Option<LocalEntry>,
    /// As it is to be here.
    pub entry: Entry,
    pub sources: Vec<ContentSource>,
    /// Missing ancestors from the top down, each with its mode.
    pub above: Vec<(String, u32)>,
}

/// A local file is to leave its name.
pub(super) struct MoveAway {
    pub what: LocalEntry,
    /// The resulting base.
    pub then: BaseRow,
    pub to: MoveTarget,
}

/// Where a file is moved that leaves its name.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum MoveTarget {
    /// To this name, of a conflict copy.
    Copy(String),
    /// To the trash, because its conflict copy exists already.
    Trash,
    /// To the trash, because the hub has deleted it.
    Deleted,
}

/// The mode and time of a local entry are to be set.
pub(super) struct MetadataChange {
    pub local: LocalEntry,
    pub mode: u32,
    pub mtime: i64,
    /// The resulting base.
    pub then: BaseRow,
}

/// A change to send, with what it needs besides the request.
pub(super) struct OutgoingChange {
    pub path: String,
    pub entry: Option<Entry>,
    pub condition: ExpectedRow,
    pub from: Option<OldPath>,
    /// The local file whose bytes are sent; `None`: the hub has everything it needs.
    pub local: Option<LocalEntry>,
    /// The change describes this tree.
    pub ours: bool,
    /// A further name that was claimed in the queue for this change.
    pub claimed: Option<String>,
}

/// What became of an intent.
#[derive(Default)]
pub(super) struct IntentOutcome {
    /// None: everything is written already.
    pub writes: Vec<Write>,
    /// A temporary name that is removed after them.
    pub discard: Option<String>,
}

impl IntentOutcome {
    pub(super) fn of(writes: Vec<Write>) -> IntentOutcome {
        IntentOutcome {
            writes,
            discard: None,
        }
    }
}
