//! The machine as the engine sees it: clock, randomness, and the receiver of completed changes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use uuid::Uuid;

use crate::clock;
use crate::files::engine::traits::{Ambient, CompletedChange};
use crate::files::stats::Stats;

/// One directory's.
pub(super) struct EngineMachine(pub Arc<Stats>, pub PathBuf, pub Instant);

impl Ambient for EngineMachine {
    fn now(&self) -> SystemTime {
        clock::now()
    }

    fn elapsed(&self) -> Duration {
        self.2.elapsed()
    }

    fn fresh(&self) -> Uuid {
        Uuid::now_v7()
    }

    fn decided(&self, path: &str, why: &'static str) {
        log::debug!("decision for {path:?}: {why} dir={}", self.1.display());
    }

    fn done(&self, what: CompletedChange<'_>) {
        let dir = self.1.display();
        match what {
            CompletedChange::Sent { path, from: None } => log::debug!("sent {path:?} dir={dir}"),
            CompletedChange::Sent {
                path,
                from: Some(from),
            } => log::debug!("renamed {from:?} to {path:?} on the hub dir={dir}"),
            CompletedChange::Deleted { path } => {
                log::debug!("deleted {path:?} on the hub dir={dir}")
            }
            CompletedChange::Placed { path } => log::debug!("received {path:?} dir={dir}"),
            CompletedChange::Removed { path } => {
                log::debug!("moved {path:?} to the trash dir={dir}")
            }
            CompletedChange::SetAside { path, copy } => log::warn!(
                "{path:?} was edited on two machines: this one's is {copy:?} now dir={dir}"
            ),
        }
        self.0.done(what);
    }
}
