//! The latest state that each machine has sent with a request: in memory, bounded, for `mesync hosts`, the page and metrics.
//!
//! No decision depends on it: a false state only affects the row of its machine.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock;
use crate::config::limits;
use crate::wire::Doubt;
use crate::wire::fleet::{MachineCondition, MachineState};

/// Machines whose state is kept; beyond that the oldest state is dropped.
const MAX_STATES: usize = limits::HOSTS as usize;
/// Seconds after its last state at which a machine counts as silent.
const SILENT_SECONDS: u64 = 45;
/// The longest interval of requests from a machine that sends no state, such as an older version.
const MAX_POLL_SECONDS: u64 = 3600;
/// Messages that wait longer than this, although their machine calls, make it degraded.
const MAX_WAIT_SECONDS: u64 = 60;

/// The states by host.
#[derive(Default)]
pub struct Fleet(Mutex<BTreeMap<String, ToldState>>);

/// A state, and the hub time of its arrival in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToldState {
    pub state: MachineState,
    pub at: u64,
}

/// The facts from which a machine's condition is derived; times are ages in seconds.
#[derive(Debug, Clone, Default)]
pub struct Evidence<'a> {
    /// The latest state, and its age.
    pub told: Option<(&'a MachineState, u64)>,
    /// The age of its last call; `None`: it has never called.
    pub seen: Option<u64>,
    /// Messages that wait for it.
    pub queued: u64,
    pub oldest_queued: Option<u64>,
    pub doubt: Option<Doubt>,
}

impl Fleet {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, ToldState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the state in a header of this machine's request; an invalid one is ignored.
    pub fn note(&self, host: &str, header: &str, now: u64) {
        let Some(state) = MachineState::parse(header) else {
            return;
        };
        let mut all = self.lock();
        if !all.contains_key(host) && all.len() >= MAX_STATES {
            let oldest = all.iter().min_by_key(|(_, told)| told.at);
            if let Some(oldest) = oldest.map(|(host, _)| host.clone()) {
                all.remove(&oldest);
            }
        }
        all.insert(host.to_string(), ToldState { state, at: now });
    }

    /// Removes the state of a host; returns whether there was one.
    pub fn forget(&self, host: &str) -> bool {
        self.lock().remove(host).is_some()
    }

    /// All states, or that of one host.
    pub fn all(&self, only: Option<&str>) -> BTreeMap<String, ToldState> {
        let all = self.lock();
        let own = |(host, told): (&String, &ToldState)| (host.clone(), told.clone());
        match only {
            Some(host) => all.get_key_value(host).map(own).into_iter().collect(),
            None => all.iter().map(own).collect(),
        }
    }
}

/// The condition of a machine, and the reason if it is not in sync.
pub fn judge(of: &Evidence) -> (MachineCondition, Option<String>) {
    let age = |seconds| clock::age(Duration::from_secs(seconds));
    let called = of.seen.map_or("it has never called".into(), |seen| {
        format!("it last called {} ago", age(seen))
    });
    let called_within = |seconds| of.seen.is_some_and(|seen| seen < seconds);
    let state = match of.told {
        Some((state, told)) if told < SILENT_SECONDS => state,
        Some((_, told)) if called_within(SILENT_SECONDS) => {
            let why = format!("it calls, and has told no state for {}", age(told));
            return (MachineCondition::Unknown, Some(why));
        }
        None if called_within(MAX_POLL_SECONDS * 3) || of.seen.is_none() => {
            let why = format!("no state since the hub was started; {called}");
            return (MachineCondition::Unknown, Some(why));
        }
        Some(_) | None => return (MachineCondition::Silent, Some(called)),
    };
    let doubt = of.doubt.map(|doubt| doubt.brief().to_string());
    let behind = of
        .oldest_queued
        .filter(|oldest| *oldest >= MAX_WAIT_SECONDS);
    let behind =
        behind.map(|oldest| format!("a message has waited on the hub for {}", age(oldest)));
    let troubles: Vec<String> = [doubt, state.trouble.clone(), behind]
        .into_iter()
        .flatten()
        .collect();
    if !troubles.is_empty() {
        (MachineCondition::Degraded, Some(troubles.join("; ")))
    } else if state.pending > 0 || of.queued > 0 {
        let why = format!("{} pending there, {} on the hub", state.pending, of.queued);
        (MachineCondition::Syncing, Some(why))
    } else {
        (MachineCondition::InSync, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_hides_trouble_and_trouble_hides_pending_work() {
        let check = |trouble: Option<&str>, pending, age, queued, wants: &str| {
            let state = MachineState {
                trouble: trouble.map(String::from),
                pending,
                ..MachineState::default()
            };
            let (condition, why) = judge(&Evidence {
                told: Some((&state, age)),
                seen: Some(age),
                queued,
                ..Evidence::default()
            });
            let got = format!("{}: {}", condition.words(), why.unwrap_or_default());
            assert_eq!(got, wants);
        };
        check(None, 0, 44, 0, "in sync: ");
        check(None, 0, 45, 0, "silent: it last called 45 s ago");
        check(Some("x"), 1, 0, 1, "degraded: x");
        check(Some("x"), 1, 45, 1, "silent: it last called 45 s ago");
        check(None, 1, 0, 0, "syncing: 1 pending there, 0 on the hub");
        check(None, 0, 0, 1, "syncing: 0 pending there, 1 on the hub");
    }

    #[test]
    fn a_machine_without_a_state_is_never_healthy() {
        let check = |seen, wants| {
            let (condition, _) = judge(&Evidence {
                seen,
                ..Evidence::default()
            });
            assert_eq!(condition, wants, "{seen:?}");
            assert!(!condition.is_healthy());
        };
        check(None, MachineCondition::Unknown);
        let state = MachineState::default();
        let (condition, why) = judge(&Evidence {
            told: Some((&state, 45)),
            seen: Some(44),
            ..Evidence::default()
        });
        let why = why.unwrap();
        assert_eq!(condition, MachineCondition::Unknown);
        assert_eq!(why, "it calls, and has told no state for 45 s");
        check(Some(0), MachineCondition::Unknown);
        check(Some(10_799), MachineCondition::Unknown);
        check(Some(10_800), MachineCondition::Silent);
    }

    #[test]
    fn a_doubt_and_an_old_message_are_trouble_that_the_machine_does_not_know() {
        let state = MachineState::default();
        let check = |doubt, oldest_queued, wants: &str| {
            let (condition, why) = judge(&Evidence {
                told: Some((&state, 0)),
                seen: Some(0),
                queued: 1,
                oldest_queued,
                doubt,
            });
            let got = format!("{}: {}", condition.words(), why.unwrap_or_default());
            assert_eq!(got, wants);
        };
        check(None, Some(59), "syncing: 0 pending there, 1 on the hub");
        check(
            None,
            Some(60),
            "degraded: a message has waited on the hub for 60 s",
        );
        check(
            Some(Doubt::Cloned),
            Some(0),
            "degraded: two machines act under this name",
        );
    }

    #[test]
    fn the_hub_keeps_a_bounded_number_of_states() {
        let (fleet, header) = (Fleet::default(), MachineState::default().header());
        for n in 0..MAX_STATES as u64 + 3 {
            fleet.note(&format!("h{n}"), &header, n);
        }
        let all = fleet.all(None);
        assert_eq!(all.len(), MAX_STATES);
        assert!(!all.contains_key("h2") && all.contains_key("h3"));
        fleet.note("h3", "{", 0);
        assert_eq!(fleet.all(Some("h3"))["h3"].at, 3);
        assert!(fleet.forget("h3") && !fleet.forget("h3"));
    }
}
