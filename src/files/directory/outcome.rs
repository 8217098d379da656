//! What follows from the end of a work item: for the status, for the log, and for the other work.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::{Directory, lock};
use crate::clock;
use crate::error::{Error, Kind};
use crate::files::engine::{WorkOutcome, WorkReport};

/// For how long downloads pause when the disk is full.
const FULL_DISK_PAUSE: Duration = Duration::from_secs(15);

impl Directory {
    pub(super) fn report(&self, report: WorkReport) {
        let WorkReport { path, outcome } = report;
        match outcome {
            WorkOutcome::Progress => {
                self.worked.fetch_add(1, Relaxed);
            }
            WorkOutcome::Settled => {
                self.worked.fetch_add(1, Relaxed);
                self.stats.settled(&path);
                if !self.is_full() {
                    self.stats.no_space(None);
                }
            }
            WorkOutcome::Looked => {}
            WorkOutcome::Held => self.stats.settled(&path),
            // the path that it waits for has a better message
            WorkOutcome::Waits(why) => self.waits(&path, Error::new(Kind::Failed, why)),
            WorkOutcome::Later(e) => {
                log::debug!("{path:?} waits: {e}");
                self.waits(&path, e);
            }
            WorkOutcome::NoSpace(e) => {
                *lock(&self.full_until) = Some(clock::monotonic() + FULL_DISK_PAUSE);
                if self.stats.no_space(Some(e.clone())) {
                    log::warn!("{e}; downloads wait dir={}", self.settings.path.display());
                }
            }
            WorkOutcome::TooLarge(e) => {
                // only this path waits, until there is room
                self.too_large.store(true, Relaxed);
                self.cannot(&path, &e);
            }
            WorkOutcome::Refused(e) => self.cannot(&path, &e),
            WorkOutcome::Fatal(e) => self.fail(e),
        }
        self.wakeup.done();
    }

    /// Makes a path wait for an unreachable hub; the cause is logged once.
    fn waits(&self, path: &str, why: Error) {
        if self.link.trouble().is_none() {
            self.stats.waits(path, why, clock::monotonic());
        }
    }

    fn cannot(&self, path: &str, e: &Error) {
        if self.stats.refused(path, e, clock::monotonic()) {
            log::warn!(
                "cannot sync {path:?}: {e} dir={}",
                self.settings.path.display()
            );
        }
    }
}
