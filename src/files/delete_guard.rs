//! The guard against mass deletion: how many deletes may go on without a person's word.
//!
//! Pure. Deletes either way count, renames and directories do not. What was let through is remembered by minutes, so that the
//! memory of it is bounded.

use std::collections::BTreeMap;

/// Minutes for which a delete counts: a rolling hour.
pub const WINDOW_MINUTES: u64 = 60;

/// From which deletes are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// So many within the window always pass.
    pub least: u64,
    /// Of so many files one may go: 4 is a quarter.
    pub one_of: u64,
    /// Of so many files or more, not all may go.
    pub all: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            least: 10,
            one_of: 4,
            all: 3,
        }
    }
}

/// What is known when a delete is about to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Files that are in sync now.
    pub files: u64,
    /// Deletes let through within the window.
    pub counted: u64,
    /// Deletes that are due, this one included; the approved ones left out.
    pub pending: u64,
}

/// Whether deletes may go on. If not, all pending ones are held: which of them were meant is not for us to guess.
pub fn passes(limits: Limits, s: Standing) -> bool {
    let before = s.files + s.counted;
    s.counted + s.pending <= limit(limits, before)
        && !(before >= limits.all && s.pending >= s.files)
}

/// How many of so many files may go within the window.
pub fn limit(limits: Limits, files: u64) -> u64 {
    limits.least.max(files / limits.one_of.max(1))
}

/// Deletes of the window. Those of the future count too: a clock that went back opens no gap.
pub fn counted(deletes: &BTreeMap<u64, u32>, minute: u64) -> u64 {
    deletes
        .range(forgotten_before(minute)..)
        .map(|(_, n)| u64::from(*n))
        .sum()
}

/// Minutes before this one do not count any more.
pub fn forgotten_before(minute: u64) -> u64 {
    minute.saturating_sub(WINDOW_MINUTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deletes_are_held_above_the_limit_and_when_nothing_would_be_left() {
        let check = |files, counted, pending, wants| {
            let got = passes(
                Limits::default(),
                Standing {
                    files,
                    counted,
                    pending,
                },
            );
            assert_eq!(got, wants, "{pending} of {files}, {counted} gone");
        };
        check(1000, 0, 250, true);
        check(1000, 0, 251, false);
        check(900, 100, 150, true);
        check(900, 100, 151, false);
        // ten are few, wherever
        check(12, 0, 10, true);
        check(12, 0, 11, false);
        check(12, 5, 6, false);
        // nothing would be left
        check(1, 0, 1, true);
        check(2, 0, 2, true);
        check(3, 0, 3, false);
        check(3, 0, 2, true);
        check(1, 2, 1, false);
    }

    #[test]
    fn a_delete_counts_for_an_hour() {
        let deletes = BTreeMap::from([(100, 3), (130, 4), (900, 5)]);
        assert_eq!(counted(&deletes, 130), 12);
        assert_eq!(counted(&deletes, 160), 12);
        assert_eq!(counted(&deletes, 161), 9);
        assert_eq!(counted(&deletes, 961), 0);
        assert_eq!(counted(&deletes, 10), 12);
    }
}
