//! Whether the hub can be reached, and when to try again: one answer for all workers of a directory.
//!
//! It waits for nothing itself. What is wrong is said once in the log, and kept for the status.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::client::Failure;
use crate::clock;
use crate::error::{Error, Kind};
use crate::files::engine::traits::Fault;
use crate::files::wakeup::Wakeup;
use crate::logger::is_same_event;

/// Between two attempts, at most.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(300);
/// Between two attempts, whatever says that the hub may be there again.
const LEAST_PAUSE: Duration = Duration::from_secs(1);
/// How long a hub is left alone that refuses this machine.
const REFUSED_PAUSE: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub struct Link {
    state: Mutex<State>,
    /// Calls that fail since the client ends are nothing to talk about.
    wakeup: Arc<Wakeup>,
}

#[derive(Debug)]
struct State {
    backoff: Backoff,
    not_before: Option<Instant>,
    failed_at: Option<Instant>,
    trouble: Option<Error>,
}

impl Link {
    /// `wakeup`: of the workers of the directory.
    pub fn new(wakeup: Arc<Wakeup>) -> Link {
        Link {
            state: Mutex::new(State {
                backoff: Backoff::new(MAX_RETRY_PAUSE),
                not_before: None,
                failed_at: None,
                trouble: None,
            }),
            wakeup,
        }
    }

    /// The hub has answered.
    pub fn reached(&self) {
        let mut state = self.lock();
        state.backoff.reset();
        (state.not_before, state.failed_at) = (None, None);
        if state.trouble.take().is_some() {
            log::info!("hub is reachable again");
        }
    }

    /// Something says that the hub may be there again: the next call need not wait. Only its answer is a success.
    pub fn try_soon(&self) {
        let mut state = self.lock();
        state.not_before = state.failed_at.map(|at| at + LEAST_PAUSE);
    }

    /// A call failed: what that means for the path that it was for. Not for all if the hub had an answer for this one only.
    pub fn failed(&self, failure: Failure) -> Fault {
        let Failure {
            error,
            status,
            retry_after,
            ..
        } = failure;
        match status {
            400 | 404 | 409 | 411 | 413 | 415 | 422 if error.kind != Kind::Unreachable => {
                return Fault::Refused(error);
            }
            // our own end: a file that changed or cannot be read
            0 if error.kind != Kind::Unreachable => return Fault::Later(error),
            _ => {}
        }
        let mut state = self.lock();
        let now = clock::monotonic();
        // several at a time fail for the same reason
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

    /// How long to leave the hub alone; zero: it may be called.
    pub fn pause(&self) -> Duration {
        self.lock().not_before.map_or(Duration::ZERO, |at| {
            at.saturating_duration_since(clock::monotonic())
        })
    }

    /// What is wrong, if something is.
    pub fn trouble(&self) -> Option<Error> {
        self.lock().trouble.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Told;

    #[test]
    fn a_hub_that_fails_is_left_alone_until_it_answers() {
        let failure = |status: u16, kind: Kind| Failure {
            error: Error::new(kind, "no"),
            status,
            retry_after: None,
            told: Told::Nothing,
        };
        let link = Link::new(Arc::default());
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
