//! Detects whether the machine under a name is a copy of the earlier one, or was restored to an earlier state.
//!
//! A client counts its starts on its disk, and draws a number at each. A copied or restored disk repeats a count with another
//! number. The state is in memory only: a restarted hub accepts the first count that it sees. Nothing is refused here.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use crate::wire::{ClientRun, IdentityDoubt};

/// Milliseconds of hub time for which a doubt is reported after its last reason.
const TOLD_FOR: u64 = 86_400_000;
/// Remembered earlier runs of a machine at most.
const MAX_PAST_DRAWS: usize = 4;

/// One entry for each host that pulls and names its run.
#[derive(Default)]
pub struct Continuity(Mutex<HashMap<String, Machine>>);

/// The identity that a pull contains.
#[derive(Debug, Clone, Copy)]
pub struct PullIdentity {
    pub instance: Option<Uuid>,
    pub run: Option<ClientRun>,
    pub after: Option<u64>,
}

struct Machine {
    instance: Option<Uuid>,
    run: ClientRun,
    /// The highest number that this run has acknowledged.
    said: u64,
    /// Earlier runs, and how often each has returned.
    past: Vec<(ClientRun, u32)>,
    /// The doubt, and the hub time of its last reason.
    doubt: Option<(IdentityDoubt, u64)>,
}

impl Machine {
    fn new(instance: Option<Uuid>, run: ClientRun) -> Machine {
        Machine {
            instance,
            run,
            said: 0,
            past: Vec::new(),
            doubt: None,
        }
    }

    /// One late request of an earlier run is no reason for a doubt.
    fn judge(&self, sign: &PullIdentity, run: ClientRun) -> Option<IdentityDoubt> {
        let past = self.past.iter().find(|(past, _)| *past == run);
        match past {
            _ if self.run == run => sign
                .after
                .filter(|after| *after < self.said)
                .map(|_| IdentityDoubt::Cloned),
            Some((_, back)) => (*back > 0).then_some(IdentityDoubt::Cloned),
            None => (run.number <= self.run.number).then_some(IdentityDoubt::SetBack),
        }
    }

    fn take(&mut self, sign: &PullIdentity, run: ClientRun) {
        match self.past.iter_mut().find(|(past, _)| *past == run) {
            Some((_, back)) => *back += 1,
            None if self.run == run => self.said = self.said.max(sign.after.unwrap_or(0)),
            None => {
                self.past.insert(0, (self.run, 0));
                self.past.truncate(MAX_PAST_DRAWS);
                (self.run, self.said) = (run, sign.after.unwrap_or(0));
            }
        }
    }

    fn told(&self, now: u64) -> Option<IdentityDoubt> {
        self.doubt
            .filter(|(_, at)| now.saturating_sub(*at) < TOLD_FOR)
            .map(|(doubt, _)| doubt)
    }
}

impl Continuity {
    /// Whether there is a doubt, or this pull would raise one. Called before the pull is admitted.
    pub fn is_doubted(&self, host: &str, sign: &PullIdentity, now: u64) -> bool {
        let (machines, run) = (self.lock(), sign.run);
        let machine = machines
            .get(host)
            .filter(|machine| machine.instance == sign.instance);
        machine
            .zip(run)
            .is_some_and(|(machine, run)| machine.judge(sign, run).or(machine.told(now)).is_some())
    }

    /// Records an admitted pull; returns the doubt about its host.
    pub fn note(&self, host: &str, sign: &PullIdentity, now: u64) -> Option<IdentityDoubt> {
        let run = sign.run?;
        let mut machines = self.lock();
        let machine = machines
            .entry(host.to_string())
            .or_insert_with(|| Machine::new(sign.instance, run));
        if machine.instance != sign.instance {
            *machine = Machine::new(sign.instance, run);
        }
        let (before, judged) = (machine.told(now), machine.judge(sign, run));
        machine.take(sign, run);
        if let Some(doubt) = judged.max(before.filter(|_| judged.is_some())) {
            machine.doubt = Some((doubt, now));
            if before != Some(doubt) {
                log::warn!("{}", doubt.words(host));
            }
        }
        machine.told(now)
    }

    /// The doubt to report about a host.
    pub fn told(&self, host: &str, now: u64) -> Option<IdentityDoubt> {
        self.lock().get(host).and_then(|machine| machine.told(now))
    }

    /// Called when a person has resolved the doubt, or the host was removed.
    pub fn forget(&self, host: &str) {
        self.lock().remove(host);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Machine>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::revision::Tag;

    /// Checks the doubt after these pulls, each (count, draw, acknowledged number).
    fn check(pulls: &[(u64, u64, u64)], wants: Option<IdentityDoubt>) {
        let (hub, mut told) = (Continuity::default(), None);
        for (number, draw, after) in pulls {
            let sign = PullIdentity {
                instance: None,
                run: Some(ClientRun {
                    number: *number,
                    draw: Tag(*draw),
                }),
                after: Some(*after),
            };
            told = hub.note("web", &sign, 1000);
        }
        assert_eq!(
            (told, hub.told("web", 1000 + TOLD_FOR)),
            (wants, None),
            "{pulls:?}"
        );
        hub.forget("web");
        assert_eq!(hub.told("web", 1000), None);
    }

    #[test]
    fn a_machine_goes_on_and_starts_again() {
        check(
            &[
                (1, 7, 0),
                (1, 7, 5),
                (1, 7, 5),
                (2, 8, 3),
                (2, 8, 9),
                (9, 3, 9),
            ],
            None,
        );
        // a late request of a killed client
        check(&[(1, 7, 5), (2, 8, 5), (1, 7, 5), (2, 8, 6)], None);
    }

    #[test]
    fn one_that_counts_the_same_again_was_set_back_or_copied() {
        check(
            &[(1, 7, 0), (2, 8, 5), (2, 9, 3)],
            Some(IdentityDoubt::SetBack),
        );
        check(&[(3, 7, 0), (2, 8, 0)], Some(IdentityDoubt::SetBack));
    }

    #[test]
    fn two_that_take_turns_are_copies() {
        check(
            &[(2, 8, 5), (2, 9, 5), (2, 8, 5), (2, 9, 5), (2, 8, 5)],
            Some(IdentityDoubt::Cloned),
        );
        check(
            &[(2, 8, 5), (3, 9, 5), (2, 8, 5), (2, 8, 5)],
            Some(IdentityDoubt::Cloned),
        );
        // copied while it ran
        check(
            &[(2, 8, 5), (2, 8, 6), (2, 8, 5)],
            Some(IdentityDoubt::Cloned),
        );
    }

    #[test]
    fn another_instance_is_another_machine() {
        let (hub, run) = (Continuity::default(), |number| {
            Some(ClientRun {
                number,
                draw: Tag(number),
            })
        });
        let sign = |n: u128, number| PullIdentity {
            instance: Some(Uuid::from_u128(n)),
            run: run(number),
            after: None,
        };
        assert_eq!(hub.note("web", &sign(1, 5), 0), None);
        assert_eq!(
            (
                hub.is_doubted("web", &sign(2, 1), 0),
                hub.note("web", &sign(2, 1), 0)
            ),
            (false, None)
        );
        assert_eq!(
            hub.note(
                "web",
                &PullIdentity {
                    run: None,
                    ..sign(1, 1)
                },
                0
            ),
            None,
            "an older client says nothing"
        );
    }
}
