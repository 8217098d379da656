//! The machines that wait to be admitted: in memory only, bounded, each for an hour.
//!
//! Pure: it takes times, addresses and random numbers as values. `joining` knows which names have keys.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::rights::Rights;
use super::server::block;
use crate::config::limits::{
    ACCEPTED_MACHINES, JOIN_REQUESTS, JOIN_REQUESTS_PER_ADDRESS, JOIN_RESTARTS, JOIN_TIME,
};
use crate::wire::files::Hash;
use crate::wire::join::{AdmissionRequest, WaitingMachine, code};

/// Requests, and the machines that were admitted last.
#[derive(Default)]
pub struct PendingJoins {
    requests: Vec<PendingJoin>,
    accepted: VecDeque<(PendingJoin, Instant)>,
    window: Option<AdmissionWindow>,
}

/// A time in which every machine is admitted with these rights.
struct AdmissionWindow {
    until: Instant,
    rights: Option<Rights>,
}

#[derive(Debug, Clone)]
struct PendingJoin {
    ask: AdmissionRequest,
    peer: IpAddr,
    since: Instant,
    number: Hash,
    /// How often the machine has restarted its request: each time it gets another code.
    restarts: u32,
    /// Known after the machine has revealed its number.
    code: Option<String>,
}

/// The result of a machine's question.
#[derive(Debug, PartialEq, Eq)]
pub enum JoinProgress {
    Begun {
        number: Hash,
    },
    /// `new`: it has not waited before.
    Waits {
        new: bool,
        code: String,
    },
    TooMany(&'static str),
}

/// Why no single machine was found.
#[derive(Debug, PartialEq, Eq)]
pub enum NotFound {
    /// No request under this name.
    None,
    /// Several requests under this name, or none of them with this code; their codes.
    Codes(Vec<String>),
}

impl PendingJoins {
    /// Handles one question. `number` is used for a new request.
    pub fn ask(
        &mut self,
        now: Instant,
        peer: IpAddr,
        ask: &AdmissionRequest,
        fingerprint: &Hash,
        number: Hash,
    ) -> JoinProgress {
        let peer = block(peer);
        self.requests
            .retain(|r| now.saturating_duration_since(r.since) < JOIN_TIME);
        let same = |r: &PendingJoin| r.ask.name == ask.name && r.ask.key == ask.key;
        if let Some(request) = self.requests.iter_mut().find(|r| same(r)) {
            if request.ask.commitment != ask.commitment {
                request.restarts += 1;
                if request.restarts > JOIN_RESTARTS {
                    return JoinProgress::TooMany("this machine has begun too many requests");
                }
                (request.ask, request.number, request.code) = (ask.clone(), number, None);
            }
            request.ask.replace = ask.replace;
            let Some(revealed) = ask
                .number
                .filter(|n| Hash::of(&n.0) == request.ask.commitment)
            else {
                return JoinProgress::Begun {
                    number: request.number,
                };
            };
            let code = code(fingerprint, ask, &revealed, &request.number);
            let new = request.code.replace(code.clone()).is_none();
            return JoinProgress::Waits { new, code };
        }
        if self.requests.iter().filter(|r| r.peer == peer).count() >= JOIN_REQUESTS_PER_ADDRESS {
            return JoinProgress::TooMany("too many machines ask from your address");
        }
        if self.requests.len() >= JOIN_REQUESTS {
            return JoinProgress::TooMany("too many machines ask");
        }
        self.requests.push(PendingJoin {
            ask: ask.clone(),
            peer,
            since: now,
            number,
            restarts: 0,
            code: None,
        });
        JoinProgress::Begun { number }
    }

    /// The request with this name and, if given, this code.
    pub fn find(&self, name: &str, code: Option<&str>) -> Result<AdmissionRequest, NotFound> {
        let mut named = self
            .requests
            .iter()
            .filter(|r| r.ask.name == name && r.code.is_some());
        let codes = || -> Vec<String> {
            let named = self.requests.iter().filter(|r| r.ask.name == name);
            named.filter_map(|r| r.code.clone()).collect()
        };
        let found = match code {
            Some(code) => named.find(|r| r.code.as_deref() == Some(code)),
            None => match (named.next(), named.next()) {
                (Some(one), None) => Some(one),
                _ => None,
            },
        };
        match (found, codes()) {
            (Some(request), _) => Ok(request.ask.clone()),
            (None, codes) if codes.is_empty() => Err(NotFound::None),
            (None, codes) => Err(NotFound::Codes(codes)),
        }
    }

    /// All waiting requests, to be admitted together.
    pub fn waiting(&self) -> Vec<AdmissionRequest> {
        let waiting = self.requests.iter().filter(|r| r.code.is_some());
        waiting.map(|r| r.ask.clone()).collect()
    }

    /// Records that this machine was admitted.
    pub fn accepted(&mut self, now: Instant, ask: &AdmissionRequest) {
        let Some(at) = self
            .requests
            .iter()
            .position(|r| r.ask.name == ask.name && r.ask.key == ask.key)
        else {
            return;
        };
        let request = self.requests.remove(at);
        if self.accepted.len() >= ACCEPTED_MACHINES {
            self.accepted.pop_front();
        }
        self.accepted.push_back((request, now));
    }

    /// Admits every machine from now on, for `time`.
    pub fn open(&mut self, now: Instant, time: Duration, rights: Option<Rights>) {
        let until = now + time;
        self.window = Some(AdmissionWindow { until, rights });
    }

    /// The remaining time in which every machine is admitted, and the rights.
    pub fn window(&self, now: Instant) -> Option<(Duration, Option<&Rights>)> {
        let window = self.window.as_ref()?;
        let left = window.until.saturating_duration_since(now);
        (!left.is_zero()).then_some((left, window.rights.as_ref()))
    }

    pub fn list(&self, now: Instant) -> (Vec<WaitingMachine>, Vec<WaitingMachine>) {
        let shown = |r: &PendingJoin, since: Instant| WaitingMachine {
            name: r.ask.name.clone(),
            address: r.peer.to_string(),
            code: r.code.clone().unwrap_or_default(),
            seconds: now.saturating_duration_since(since).as_secs(),
            replace: r.ask.replace,
        };
        let young = |r: &&PendingJoin| now.saturating_duration_since(r.since) < JOIN_TIME;
        let pending = self.requests.iter().filter(young);
        let pending = pending.filter(|r| r.code.is_some());
        let accepted = self.accepted.iter();
        (
            pending.map(|r| shown(r, r.since)).collect(),
            accepted.map(|(r, at)| shown(r, *at)).collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(name: &str, key: u8, number: u8, reveals: bool) -> AdmissionRequest {
        let number = Hash([number; 32]);
        AdmissionRequest {
            name: name.into(),
            key: Hash([key; 32]),
            commitment: Hash::of(&number.0),
            number: reveals.then_some(number),
            replace: false,
            invitation: None,
        }
    }

    fn peer(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    const F: Hash = Hash([7; 32]);

    /// Lets a machine ask and reveal its number.
    fn full(pending: &mut PendingJoins, now: Instant, n: u8, name: &str, key: u8) -> JoinProgress {
        pending.ask(now, peer(n), &ask(name, key, 1, false), &F, Hash([n; 32]));
        pending.ask(now, peer(n), &ask(name, key, 1, true), &F, Hash([n; 32]))
    }

    #[test]
    fn a_machine_waits_once_it_has_revealed_the_number_that_it_committed_to() {
        let (now, mut pending) = (crate::clock::monotonic(), PendingJoins::default());
        let begun = JoinProgress::Begun {
            number: Hash([9; 32]),
        };
        let first = ask("a", 1, 1, false);
        assert_eq!(pending.ask(now, peer(1), &first, &F, Hash([9; 32])), begun);
        assert_eq!(pending.find("a", None), Err(NotFound::None));
        let wrong = AdmissionRequest {
            number: Some(Hash([2; 32])),
            ..first.clone()
        };
        assert_eq!(
            pending.ask(now, peer(1), &wrong, &F, Hash([8; 32])),
            begun,
            "a number that it did not commit to"
        );
        let right = ask("a", 1, 1, true);
        let JoinProgress::Waits { new: true, code } =
            pending.ask(now, peer(1), &right, &F, Hash([8; 32]))
        else {
            panic!("it does not wait");
        };
        assert_eq!(
            code,
            crate::wire::join::code(&F, &right, &Hash([1; 32]), &Hash([9; 32]))
        );
        let again = pending.ask(now, peer(1), &right, &F, Hash([8; 32]));
        assert!(matches!(again, JoinProgress::Waits { new: false, .. }));
        assert!(pending.find("a", Some(&code)).is_ok() && pending.find("a", None).is_ok());
        assert!(matches!(
            pending.find("a", Some("000-0000")),
            Err(NotFound::Codes(_))
        ));
        pending.accepted(now, &right);
        let (left, accepted) = pending.list(now);
        assert!(left.is_empty() && accepted[0].code == code);
    }

    #[test]
    fn two_machines_of_one_name_are_told_apart_by_their_codes() {
        let (now, mut pending) = (crate::clock::monotonic(), PendingJoins::default());
        let codes: Vec<String> = [1, 2]
            .map(|n| match full(&mut pending, now, n, "a", n) {
                JoinProgress::Waits { code, .. } => code,
                other => panic!("{other:?}"),
            })
            .into();
        assert_eq!(pending.find("a", None), Err(NotFound::Codes(codes.clone())));
        assert_eq!(pending.find("a", Some(&codes[1])).unwrap().key.0, [2; 32]);
    }

    #[test]
    fn requests_are_few_and_end_after_an_hour() {
        let (now, mut pending) = (crate::clock::monotonic(), PendingJoins::default());
        for n in 0..JOIN_REQUESTS_PER_ADDRESS {
            assert!(matches!(
                full(&mut pending, now, 1, &format!("h{n}"), n as u8),
                JoinProgress::Waits { .. }
            ));
        }
        let more = full(&mut pending, now, 1, "more", 99);
        assert_eq!(
            more,
            JoinProgress::TooMany("too many machines ask from your address")
        );
        for n in JOIN_REQUESTS_PER_ADDRESS..JOIN_REQUESTS {
            full(
                &mut pending,
                now,
                2 + n as u8 / 4,
                &format!("h{n}"),
                n as u8,
            );
        }
        let more = full(&mut pending, now, 200, "more", 99);
        assert_eq!(more, JoinProgress::TooMany("too many machines ask"));
        assert_eq!(pending.list(now).0.len(), JOIN_REQUESTS);
        let later = now + JOIN_TIME;
        assert!(pending.list(later).0.is_empty());
        assert!(matches!(
            full(&mut pending, later, 200, "more", 99),
            JoinProgress::Waits { .. }
        ));
    }

    #[test]
    fn codes_cannot_be_drawn_again_and_again() {
        let (now, mut pending) = (crate::clock::monotonic(), PendingJoins::default());
        let drawn = (0..100u8).filter(|n| {
            let begun = ask("a", 1, *n, false);
            matches!(
                pending.ask(now, peer(1), &begun, &F, Hash([*n; 32])),
                JoinProgress::Begun { .. }
            )
        });
        assert_eq!(drawn.count() as u32, JOIN_RESTARTS + 1);
    }

    #[test]
    fn a_window_closes_by_itself() {
        let (now, mut pending) = (crate::clock::monotonic(), PendingJoins::default());
        assert_eq!(pending.window(now), None);
        pending.open(now, Duration::from_secs(5), None);
        assert_eq!(pending.window(now), Some((Duration::from_secs(5), None)));
        assert_eq!(pending.window(now + Duration::from_secs(5)), None);
    }
}
