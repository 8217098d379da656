//! Passes objects between a client's thread and a worker, beside the HTTP text: the checked request to the worker, a job back,
//! each under the number of a ticket.
//!
//! A ticket exists as long as the client's thread waits for the answer. A job for a missing ticket is dropped at once, so
//! nothing needs to expire.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::hub::http::{Job, Request};

/// The number with which the opener tests a connection.
pub const PROBE: u64 = 0;

/// At most one ticket for each client, so bounded by the number of connections.
#[derive(Default)]
pub struct Tickets {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    last: u64,
    slots: HashMap<u64, TicketState>,
}

enum TicketState {
    /// No worker has seen it.
    Asked(Box<Request>),
    /// A worker has taken it.
    Taken,
    Left(Job),
}

/// Held by the client's thread.
pub struct Ticket {
    tickets: Arc<Tickets>,
    pub number: u64,
}

impl Tickets {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn issue(self: &Arc<Tickets>, request: Request) -> Ticket {
        let mut inner = self.lock();
        inner.last += 1;
        let number = inner.last;
        inner
            .slots
            .insert(number, TicketState::Asked(Box::new(request)));
        Ticket {
            tickets: self.clone(),
            number,
        }
    }

    /// Called by a worker: takes the request, once. `None` also if its thread no longer waits.
    pub fn take(&self, number: u64) -> Option<Box<Request>> {
        let mut inner = self.lock();
        match inner.slots.get_mut(&number) {
            Some(slot @ TicketState::Asked(_)) => match std::mem::replace(slot, TicketState::Taken)
            {
                TicketState::Asked(request) => Some(request),
                _ => None,
            },
            _ => None,
        }
    }

    /// Called by a worker before it sends the answer. The job is dropped if its thread no longer waits.
    pub fn leave(&self, number: u64, job: Job) {
        if let Some(slot) = self.lock().slots.get_mut(&number) {
            *slot = TicketState::Left(job);
        }
    }
}

impl Ticket {
    /// Takes the request back if no worker has seen it, so that sending it again cannot carry it out twice.
    pub fn withdraw(self) -> Option<Request> {
        match self.tickets.lock().slots.remove(&self.number) {
            Some(TicketState::Asked(request)) => Some(*request),
            _ => None,
        }
    }

    /// The job that the worker left beside its answer.
    pub fn job(self) -> Option<Job> {
        match self.tickets.lock().slots.remove(&self.number) {
            Some(TicketState::Left(job)) => Some(job),
            _ => None,
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let left = self.tickets.lock().slots.remove(&self.number);
        // dropped outside the lock: a job may own anything
        drop(left);
    }
}
