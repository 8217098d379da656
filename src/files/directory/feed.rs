//! Fetches what the hub reports, and says how often it is asked.

use std::time::Duration;

use super::Directory;
use crate::config::watch::SyncMode;
use crate::error::{Error, Kind};
use crate::files::engine::PollResult;
use crate::files::engine::traits::{CallResult, Fault};
use crate::files::remote::EarlyWork;

/// A hub is restored once, not with every response.
const MAX_EPOCHS_PER_FEED: u32 = 3;

impl Directory {
    /// Fetches all new changes of the hub. Errors: of the hub, or of storing them.
    pub fn feed(&self) -> CallResult<()> {
        let mut epochs = 0;
        loop {
            match self.engine.poll() {
                Ok(PollResult::More) => self.wakeup.wake(),
                Ok(PollResult::Drained | PollResult::Busy) => {
                    if let Some(remote) = &self.remote {
                        for path in remote.mend() {
                            self.engine.offer(&path);
                        }
                    }
                    self.wakeup.wake();
                    return Ok(());
                }
                Ok(PollResult::NewEpoch | PollResult::SetBack(_))
                    if epochs >= MAX_EPOCHS_PER_FEED =>
                {
                    let what = "hub epoch changes with every response; backing off";
                    log::warn!("{what}");
                    return Err(Fault::Later(Error::new(Kind::Busy, what)));
                }
                Ok(PollResult::NewEpoch) => {
                    epochs += 1;
                    log::info!(
                        "comparing everything: the hub is new to this directory, or was restored dir={}",
                        self.settings.path.display()
                    );
                    self.rescan_later();
                }
                Ok(PollResult::SetBack(through)) => {
                    epochs += 1;
                    log::warn!(
                        "hub was set back; resending later changes rev={through} dir={}",
                        self.settings.path.display()
                    );
                    self.rescan_later();
                }
                Err(fault) => {
                    match &fault {
                        Fault::Fatal(e) => self.fail(e.clone()),
                        other => {
                            log::debug!("no news from the hub: {}", Error::from(other.clone()))
                        }
                    }
                    return Err(fault);
                }
            }
            if self.wakeup.is_stopped() {
                return Ok(());
            }
        }
    }

    /// Work for a thread that downloads files which other machines are still sending, if there is any.
    pub fn early_work(&self) -> Option<EarlyWork<'_>> {
        let remote = self.remote.as_ref()?;
        if self.settings.mode == SyncMode::SendOnly {
            None
        } else {
            remote.early_work()
        }
    }

    /// How long to wait before the next poll: on some servers it lists every file.
    pub fn feed_pause(&self) -> Duration {
        self.legacy
            .as_ref()
            .map_or(Duration::ZERO, |legacy| legacy.ledger.pause())
    }

    /// Whether a change on the server was noticed that no event reported, since the last call.
    pub fn take_feed_wanted(&self) -> bool {
        self.legacy
            .as_ref()
            .is_some_and(|legacy| legacy.ledger.take_wanted())
    }

    /// How often the server is polled although it reports changes: its event stream may lose some.
    pub fn feed_interval(&self, usual: Duration) -> Duration {
        if self.legacy.is_some() {
            usual.min(self.settings.rescan)
        } else {
            usual
        }
    }
}
