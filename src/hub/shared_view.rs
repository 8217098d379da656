//! How fresh a hub's view of the shared log is, and what follows for its answers.
//!
//! A number that is ahead of the view is not of another history: another hub has given it. The view catches up before such a
//! request is answered.

use std::sync::Arc;
use std::time::Duration;

use super::bucket::clock::StoreClock;
use super::commit::Committer;
use super::http::{Reply, Request};
use super::metrics::MetricsText;
use super::store::Store;
use crate::wire::files::HISTORY_HEADER;
use crate::wire::revision::Revision;

/// How long a request waits for the view to catch up.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(10);
/// Milliseconds without a look at the end of the log after which clients are sent to another hub.
const TOO_OLD: u64 = 600_000;

pub struct SharedView {
    pub clock: Arc<StoreClock>,
}

impl SharedView {
    /// The bucket has not responded for so long that other hubs should be asked.
    pub fn is_old(&self) -> bool {
        self.clock.view_age().is_none_or(|age| age > TOO_OLD)
    }

    /// The error is an answer with a reason.
    pub fn admit(
        &self,
        request: &Request,
        store: &Store,
        committer: &Committer,
    ) -> Result<(), Reply> {
        let unavailable = |words: &str| Reply::error(503, words).header("Retry-After", "5");
        if self.is_old() {
            return Err(unavailable(
                "this hub cannot reach its bucket: ask another hub, or again later",
            ));
        }
        let counters = store.counters().map_err(|e| Reply::failed(&e))?;
        let highest = if request.path.starts_with("/api/messages") {
            counters.seq
        } else {
            counters.rev
        };
        if numbers(request).all(|number| number <= highest) || committer.catch_up(CATCH_UP_PATIENCE)
        {
            return Ok(());
        }
        Err(unavailable(
            "this hub is behind another one: ask that one, or again later",
        ))
    }

    pub fn write(&self, store: &Store, text: &mut MetricsText) {
        if let Ok(position) = store.position() {
            text.gauge(
                "log_position",
                "number of the last entry of the shared log that this hub has applied",
                position.n,
            );
        }
        if let Some(age) = self.clock.view_age() {
            text.gauge(
                "log_age_seconds",
                "seconds since this hub has last seen the end of the shared log",
                age / 1000,
            );
        }
    }
}

/// Revisions and numbers of messages that a request names.
fn numbers(request: &Request) -> impl Iterator<Item = u64> {
    let headers = [HISTORY_HEADER, "if-match", "if-none-match"];
    let revisions = headers
        .into_iter()
        .filter_map(|name| Revision::parse(request.header(name)?))
        .map(|at| at.rev);
    let plain = ["after", "newest", "rev", "began"]
        .into_iter()
        .filter_map(|name| request.parameter(name)?.parse().ok());
    let event = request
        .header("last-event-id")
        .and_then(|id| id.parse().ok());
    revisions.chain(plain).chain(event)
}
