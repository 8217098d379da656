//! Paths that work which is running needs besides its own: nothing else is done about them meanwhile.

use std::collections::BTreeSet;

use super::WorkQueue;
use crate::files::plan::{is_below, parent};

impl WorkQueue {
    /// Claims a path; the caller returns it with [`WorkQueue::release`].
    pub fn claim(&mut self, path: &str) -> bool {
        let free = !is_blocked(&self.busy, path);
        if free {
            self.busy.insert(path.to_string());
        }
        free
    }

    /// Claims a path at or above one that is being worked on, `inside`, if nothing else at or below it is.
    pub fn claim_around(&mut self, path: &str, inside: &str) -> bool {
        let is_own = self.busy.remove(inside);
        let free = self.claim(path);
        if is_own {
            self.busy.insert(inside.to_string());
        }
        free
    }

    /// Returns a path of [`WorkQueue::claim_around`].
    pub fn release_around(&mut self, path: &str, inside: &str) {
        if path != inside {
            self.release(path);
        }
    }

    pub fn release(&mut self, path: &str) {
        self.busy.remove(path);
        if self.due.get(path).is_some_and(|d| d.offered_again) {
            self.restart(path);
        }
    }
}

/// Whether a path, or one above or below it, is being worked on.
pub(super) fn is_blocked(busy: &BTreeSet<String>, path: &str) -> bool {
    let above = std::iter::successors(Some(path), |p| parent(p)).any(|p| busy.contains(p));
    above
        || busy
            .range(format!("{path}/")..)
            .next()
            .is_some_and(|p| is_below(p, path))
}
