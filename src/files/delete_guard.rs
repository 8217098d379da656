//! The guard against mass deletion: how many deletes may pass without approval.
//!
//! Pure. Deletes in both directions count; renames and directories do not. Deletes that passed are
//! recorded by the minute, so that the record is bounded.

use std::collections::BTreeMap;

use crate::config::watch::WatchSettings;

/// Minutes for which a delete counts: one hour, rolling.
pub const WINDOW_MINUTES: u64 = 60;

/// The limits above which deletes are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeleteLimits {
    /// So many deletes within the window always pass.
    pub least: u64,
    /// So many percent of the files always pass.
    pub share: u64,
    /// In a directory with at least so many files, not all of them may be deleted.
    pub all: u64,
}

impl Default for DeleteLimits {
    fn default() -> DeleteLimits {
        DeleteLimits {
            least: 10,
            share: 25,
            all: 3,
        }
    }
}

impl DeleteLimits {
    /// Those of a directory.
    pub fn of(settings: &WatchSettings) -> DeleteLimits {
        DeleteLimits {
            least: settings.max_deletes,
            share: settings.max_delete_share,
            ..DeleteLimits::default()
        }
    }

    /// Every delete passes.
    pub fn are_off(self) -> bool {
        self.share >= 100
    }

    /// Which deletes are held.
    pub fn words(self) -> String {
        let DeleteLimits { least, share, .. } = self;
        format!("more than {least} files and {share} % of all within an hour, or all of them")
    }
}

/// The numbers that a decision depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuardInput {
    /// Files that are in sync now.
    pub files: u64,
    /// Deletes that passed within the window.
    pub counted: u64,
}

/// How many pending deletes pass together, without the approved ones. If there are more, all of them are held: the program
/// does not guess which of them were meant.
pub fn most_pending(limits: DeleteLimits, GuardInput { files, counted }: GuardInput) -> u64 {
    let before = files + counted;
    let within_limit = limit(limits, before).saturating_sub(counted);
    if before < limits.all {
        within_limit
    } else {
        within_limit.min(files.saturating_sub(1))
    }
}

/// How many of so many files may be deleted within the window.
fn limit(limits: DeleteLimits, files: u64) -> u64 {
    limits.least.max(files.saturating_mul(limits.share) / 100)
}

/// Deletes within the window. Those in the future count too, so that a clock that was set back
/// opens no gap.
pub fn counted(deletes: &BTreeMap<u64, u32>, minute: u64) -> u64 {
    deletes
        .range(forgotten_before(minute)..)
        .map(|(_, n)| u64::from(*n))
        .sum()
}

/// Minutes before this one no longer count.
pub fn forgotten_before(minute: u64) -> u64 {
    minute.saturating_sub(WINDOW_MINUTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deletes_are_held_above_the_limit_and_when_nothing_would_be_left() {
        let check = |files, counted, pending, wants| {
            let standing = GuardInput { files, counted };
            let got = pending <= most_pending(DeleteLimits::default(), standing);
            assert_eq!(got, wants, "{pending} of {files}, {counted} gone");
        };
        check(1000, 0, 250, true);
        check(1000, 0, 251, false);
        check(900, 100, 150, true);
        check(900, 100, 151, false);
        // ten are always few
        check(12, 0, 10, true);
        check(12, 0, 11, false);
        check(12, 5, 6, false);
        // no file would be left
        check(1, 0, 1, true);
        check(2, 0, 2, true);
        check(3, 0, 3, false);
        check(3, 0, 2, true);
        check(1, 2, 1, false);
    }

    #[test]
    fn a_directory_has_limits_of_its_own() {
        let check = |(least, share), files, pending, wants| {
            let limits = DeleteLimits {
                least,
                share,
                ..DeleteLimits::default()
            };
            let got = pending <= most_pending(limits, GuardInput { files, counted: 0 });
            assert_eq!(got, wants, "{limits:?} {pending} of {files}");
        };
        check((0, 0), 1000, 1, false);
        check((0, 0), 1, 1, false);
        check((1, 0), 1000, 1, true);
        check((1, 0), 1000, 2, false);
        check((0, 50), 1000, 500, true);
        check((0, 50), 1000, 501, false);
        check((1_000_000, 0), 1000, 999, true);
        check((1_000_000, 0), 1000, 1000, false);
        check((0, 99), u64::MAX, 1, true);
        assert!(!DeleteLimits::default().are_off());
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
