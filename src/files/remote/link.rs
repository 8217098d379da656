//! Tracks whether the hub is reachable, and when to try again: one state for all workers of a
//! directory.
//!
//! It does not wait itself. A problem is logged once, and kept for the status.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::client::{ErrorDetail, Failure};
use crate::clock;
use crate::error::{Error, Kind};
use crate::files::engine::traits::Fault;
use crate::files::wakeup::Wakeup;
use crate::logger::is_same_event;

/// Maximum pause between two attempts.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(300);
/// Minimum pause between two attempts, even after a sign that the hub may be back.
const LEAST_PAUSE: Duration = Duration::from_secs(1);
/// How long a hub that refuses this machine is not called.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub struct Link {
    state: Mutex<LinkState>,
    /// Failed calls are not reported once the client is stopping.
    wakeup: Arc<Wakeup>,
}

#[derive(Debug)]
struct LinkState {
    backoff: Backoff,
    not_before: Option<Instant>,
    failed_at: Option<Instant>,
    trouble: Option<Error>,
}

impl Link {
    /// `wakeup`: the one of the directory's workers.
    pub fn new(wakeup: Arc<Wakeup>) -> Link {
        Link {
            state: Mutex::new(LinkState {
                backoff: Backoff::new(MAX_RETRY_PAUSE),
                not_before: None,
                failed_at: None,
                trouble: None,
            }),
            wakeup,
        }
    }

    /// Records that the hub has responded.
    pub fn reached(&self) {
        let mut state = self.lock();
        state.backoff.reset();
        (state.not_before, state.failed_at) = (None, None);
        if state.trouble.take().is_some() {
            log::info!("hub is reachable again");
        }
    }

    /// A sign that the hub may be back: the next call need not wait. Only its response counts as
    /// success.
    pub fn try_soon(&self) {
        let mut state = self.lock();
        state.not_before = state.failed_at.map(|at| at + LEAST_PAUSE);
    }

    /// Records a failed call and returns what it means for its path. The other paths are not
    /// affected if the hub responded with an error for this one.
    pub fn failed(&self, failure: Failure) -> Fault {
        let Failure {
            error,
            status,
            retry_after,
            told,
        } = failure;
        match status {
            // of this change only: what others change still arrives
            403 if matches!(&told, ErrorDetail::LacksRight(right) if right != "read") => {
                return Fault::Refused(error);
            }
            400 | 404 | 409 | 411 | 413 | 415 | 422 if error.kind != Kind::Unreachable => {
                return Fault::Refused(error);
            }
            // a local cause: the file changed or cannot be read
            0 if error.kind != Kind::Unreachable => return Fault::Later(error),
            _ => {}
        }
        let mut state = self.lock();
        let now = clock::monotonic();
        // concurrent calls fail for the same reason
        if state.not_before.is_none_or(|at| at <= now) {
            let pause = state.backoff.next(uuid::Uuid::new_v4().as_u64_pair().0);
            let pause = if matches!(status, 401 | 403) {
                REFUSED_PAUSE
            } else {
                retry_after.map_or(pause, |asked| asked.clamp(pause, MAX_RETRY_PAUSE))
            };
            (state.not_before, state.failed_at) = (Some(now + pause), Some(now));
        }
        if !self.wakeup.is_stopped() {
            let words = error.to_string();
            if state
                .trouble
                .as_ref()
                .is_none_or(|said| !is_same_event(&said.to_string(), &words))
            {
                log::warn!("{words}; files wait; retrying");
            }
            state.trouble = Some(error.clone());
        }
        Fault::Later(error)
    }

    /// How long to wait before calling the hub; zero: it may be called now.
    pub fn pause(&self) -> Duration {
        self.lock().not_before.map_or(Duration::ZERO, |at| {
            at.saturating_duration_since(clock::monotonic())
        })
    }

    /// The current problem, if there is one.
    pub fn trouble(&self) -> Option<Error> {
        self.lock().trouble.clone()
    }

    fn lock(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hub_that_fails_is_left_alone_until_it_answers() {
        let failure = |status: u16, kind: Kind| Failure {
            error: Error::new(kind, "no"),
            status,
            retry_after: None,
            told: ErrorDetail::Nothing,
        };
        let link = Link::new(Arc::new(Wakeup::new(Arc::default())));
        assert!(
            matches!(link.failed(failure(422, Kind::Refused)), Fault::Refused(_))
                && link.pause().is_zero()
        );
        assert!(
            matches!(link.failed(failure(0, Kind::Busy)), Fault::Later(_))
                && link.pause().is_zero()
        );
        assert!(matches!(
            link.failed(failure(0, Kind::Unreachable)),
            Fault::Later(_)
        ));
        let pause = link.pause();
        assert!(!pause.is_zero() && pause <= Duration::from_secs(1) && link.trouble().is_some());
        link.try_soon();
        assert!(link.trouble().is_some(), "a stream that opens is no answer");
        link.reached();
        assert!(link.pause().is_zero() && link.trouble().is_none());
        link.failed(failure(403, Kind::Refused));
        assert!(link.pause() > Duration::from_secs(50));
    }
}
