//! How work on a path ended: for the engine itself, for the queue, and for the log and the status.

use super::queue::WorkEnd;
use super::traits::Fault;
use crate::error::Error;

/// The outcome of one work item, for the log and the status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkReport {
    pub path: String,
    pub outcome: WorkOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WorkOutcome {
    /// Examined; waits to be carried out.
    Looked,
    /// One step was carried out.
    Progress,
    /// Nothing is left to do for the path.
    Settled,
    /// Waits for another path until [`Engine::wake`](super::Engine::wake), with the reason.
    Waits(String),
    /// Held by the delete guard.
    Held,
    /// The environment failed; pending again after [`Engine::wake`](super::Engine::wake).
    Later(Error),
    NoSpace(Error),
    /// Pending again after [`Engine::wake`](super::Engine::wake).
    TooLarge(Error),
    /// Not retried before the file or the hub's row changes.
    Refused(Error),
    /// The engine must stop.
    Fatal(Error),
}

/// Why work on a path ended before the path was in sync.
#[derive(Debug, Clone)]
pub(super) enum Interrupted {
    Fault(Fault),
    /// The path is not as it was planned for: plan again at the next wake-up, with the reason.
    Again(&'static str),
    /// Work on another path keeps a name busy that is needed, with the reason.
    Busy(&'static str),
    /// Its content has a new name, which is placed first.
    Postponed,
    /// Another path must be handled first.
    WaitFor(String),
    Held,
    /// The local entry cannot be determined: leave the path alone.
    Unknown(Error),
}

impl From<Fault> for Interrupted {
    fn from(fault: Fault) -> Interrupted {
        Interrupted::Fault(fault)
    }
}

/// `true` if something was done, `false` if there was nothing to do.
pub(super) type PathResult = Result<bool, Interrupted>;

pub(super) fn outcome(done: Result<WorkEnd, Interrupted>) -> (WorkEnd, WorkOutcome) {
    match done {
        Ok(WorkEnd::Settled) => (WorkEnd::Settled, WorkOutcome::Settled),
        Ok(end @ WorkEnd::Examined(_)) => (end, WorkOutcome::Looked),
        Ok(end) => (end, WorkOutcome::Progress),
        Err(Interrupted::Again(why)) => (WorkEnd::Wait(None), WorkOutcome::Waits(why.into())),
        // that work ends without a wake-up
        Err(Interrupted::Busy(why)) => (WorkEnd::Postponed, WorkOutcome::Waits(why.into())),
        Err(Interrupted::WaitFor(other)) => {
            let why = format!("{other:?} is synced first");
            (WorkEnd::Wait(Some(other)), WorkOutcome::Waits(why))
        }
        Err(Interrupted::Postponed) => {
            let why = "its content was renamed on the hub; the new name is synced first";
            (WorkEnd::Postponed, WorkOutcome::Waits(why.into()))
        }
        Err(Interrupted::Held) => (WorkEnd::Held, WorkOutcome::Held),
        Err(Interrupted::Unknown(e)) => (WorkEnd::Dropped, WorkOutcome::Refused(e)),
        Err(Interrupted::Fault(Fault::Later(e))) => (WorkEnd::Wait(None), WorkOutcome::Later(e)),
        Err(Interrupted::Fault(Fault::NoSpace(e))) => {
            (WorkEnd::Wait(None), WorkOutcome::NoSpace(e))
        }
        Err(Interrupted::Fault(Fault::TooLarge(e))) => {
            (WorkEnd::Wait(None), WorkOutcome::TooLarge(e))
        }
        Err(Interrupted::Fault(Fault::Refused(e))) => (WorkEnd::Dropped, WorkOutcome::Refused(e)),
        Err(Interrupted::Fault(Fault::Fatal(e))) => (WorkEnd::Wait(None), WorkOutcome::Fatal(e)),
    }
}
