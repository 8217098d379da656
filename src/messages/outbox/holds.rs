//! Targets for which the hub has no room: their messages are held, and one of them is sent as a
//! probe at intervals.
//!
//! Pure: time and randomness are arguments. It knows only the targets of messages.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;

/// The longest time between two probes.
const MAX_HOLD: Duration = Duration::from_secs(60);
/// Targets that [`TargetHolds::words`] names.
const NAMED_TARGETS: usize = 3;

/// The target host of a message, shared by all messages for it. `None`: a broadcast.
pub type Target = Option<Arc<str>>;

/// The held targets, at most as many as the messages in the outbox have.
#[derive(Default)]
pub struct TargetHolds(HashMap<Target, TargetHold>);

struct TargetHold {
    until: Instant,
    backoff: Backoff,
    /// The error of the hub.
    why: String,
}

/// Selects the messages of one request.
pub struct Probes<'a> {
    holds: &'a TargetHolds,
    now: Instant,
    probed: HashSet<Target>,
}

impl TargetHolds {
    /// The hub has no room for a message to this target. `random`: for the backoff.
    pub fn add(&mut self, now: Instant, target: Target, why: String, random: u64) {
        let hold = self.0.entry(target).or_insert_with_key(|target| {
            log::info!("messages wait: target={} reason={why}", name(target));
            TargetHold {
                until: now,
                backoff: Backoff::new(MAX_HOLD),
                why: String::new(),
            }
        });
        hold.until = now + hold.backoff.next(random);
        hold.why = why;
    }

    /// The hub has accepted a message to this target.
    pub fn remove(&mut self, target: &Target) {
        self.0.remove(target);
    }

    /// When the next hold ends, if none has ended: the next request contains a message for each
    /// target whose hold has ended.
    pub fn next_end(&self, now: Instant) -> Option<Instant> {
        let ends = self.0.values().map(|hold| hold.until);
        ends.filter(|end| *end > now).min()
    }

    pub fn probes(&self, now: Instant) -> Probes<'_> {
        Probes {
            holds: self,
            now,
            probed: HashSet::new(),
        }
    }

    /// Removes holds that have ended and have no message to probe with; `probed` are those that
    /// have one.
    pub fn forget_others(&mut self, now: Instant, probed: &HashSet<Target>) {
        self.0
            .retain(|target, hold| hold.until > now || probed.contains(target));
    }

    /// Describes the held messages, with the reasons.
    pub fn words(&self) -> Option<String> {
        let mut targets: Vec<&Target> = self.0.keys().collect();
        targets.sort();
        let first = targets.first()?;
        let names: Vec<&str> = targets
            .iter()
            .take(NAMED_TARGETS)
            .map(|t| name(t))
            .collect();
        let more = match targets.len() - names.len() {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        let (names, why) = (names.join(", "), &self.0[*first].why);
        Some(format!("messages to {names}{more} wait: {why}"))
    }
}

impl Probes<'_> {
    /// Whether the request may contain a message to this target: always if it is not held; if its
    /// hold has ended, one.
    pub fn may_send(&mut self, target: &Target) -> bool {
        match self.holds.0.get(target) {
            None => true,
            Some(hold) => hold.until <= self.now && self.probed.insert(target.clone()),
        }
    }

    /// The held targets with a message in the request.
    pub fn end(self) -> HashSet<Target> {
        self.probed
    }
}

fn name(target: &Target) -> &str {
    target.as_deref().unwrap_or("all hosts")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_target_is_tried_with_one_message_at_growing_intervals() {
        let (start, mut holds) = (crate::clock::monotonic(), TargetHolds::default());
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let target = |name: &str| Some(Arc::from(name));
        let sends = |holds: &TargetHolds, now: u64, names: &[&str]| {
            let mut probes = holds.probes(at(now));
            let sent: Vec<bool> = names.iter().map(|n| probes.may_send(&target(n))).collect();
            (sent, probes.end())
        };
        holds.add(at(0), target("a"), "full".into(), 1023);
        assert_eq!(
            holds
                .next_end(at(0))
                .unwrap()
                .duration_since(at(0))
                .as_secs(),
            0
        );
        assert_eq!(
            sends(&holds, 0, &["a", "b", "a", "b"]).0,
            [false, true, false, true]
        );
        assert_eq!(holds.next_end(at(1)), None, "one that is over wakes nobody");
        let (sent, probed) = sends(&holds, 1, &["a", "a", "b"]);
        assert_eq!(sent, [true, false, true]);
        holds.forget_others(at(1), &probed);
        holds.add(at(1), target("a"), "still full".into(), 1023);
        assert_eq!(sends(&holds, 2, &["a"]).0, [false]);
        assert_eq!(sends(&holds, 3, &["a", "a"]).0, [true, false]);
        assert_eq!(holds.words().unwrap(), "messages to a wait: still full");
        for other in ["e", "d", "c"] {
            holds.add(at(3), target(other), "no".into(), 0);
        }
        holds.add(at(3), None, "space".into(), 0);
        assert_eq!(
            holds.words().unwrap(),
            "messages to all hosts, a, c and 2 more wait: space"
        );
        // none of its messages is left
        holds.forget_others(at(3), &HashSet::new());
        assert_eq!(sends(&holds, 3, &["a", "a"]).0, [true, true]);
        holds.remove(&target("c"));
        assert_eq!(sends(&holds, 3, &["c", "c"]).0, [true, true]);
    }
}
