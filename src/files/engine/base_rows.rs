//! The rows that changes leave in the base.
//!
//! Pure.

use super::PathState;
use super::traits::Write;
use crate::files::plan::{BaseRow, Entry, RemoteRow, Stamp};

/// The base of a path after the hub's row was applied here.
pub(super) fn in_sync(known: &PathState, seen: Option<Stamp>) -> BaseRow {
    let RemoteRow { rev, entry, .. } = *known.remote();
    BaseRow {
        rev,
        lost: false,
        entry,
        seen,
    }
}

/// The stamp for later comparisons. A mode that differs from the hub's on purpose must still show
/// as a local change.
pub(super) fn seen_with(mode: u32, theirs: Option<&Entry>, stamp: Stamp) -> Stamp {
    match theirs {
        Some(theirs) if theirs.mode != mode => Stamp {
            mode: theirs.mode,
            ..stamp
        },
        _ => stamp,
    }
}

/// The base after a change of metadata: if `seen` is still to be set, it is `stamp` with the mode
/// that `meant` resulted in.
pub(super) fn with_mode(then: &BaseRow, stamp: Stamp, mode: u32, meant: u32) -> BaseRow {
    let seen = Stamp {
        mode,
        ..then.seen.unwrap_or(stamp)
    };
    BaseRow {
        seen: Some(seen_with(meant, then.entry.as_ref(), seen)),
        ..then.clone()
    }
}

/// Closes an intent, and writes the base if it was carried out. `generation`: of the decision.
pub(super) fn closing(path: &str, now: u64, generation: u64, base: Option<BaseRow>) -> Vec<Write> {
    // a decision from before all rows were forgotten says nothing about current revisions
    let of_now = |base: &BaseRow| generation == now || *base == BaseRow::default();
    let base = base
        .filter(of_now)
        .map(|base| Write::Base(path.to_string(), base));
    base.into_iter()
        .chain([Write::Intent(path.to_string(), None)])
        .collect()
}
