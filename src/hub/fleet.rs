//! The latest state that each machine has sent with a request: in memory, bounded, for `mesync hosts`, the page and metrics.
//!
//! The names of these machines are in the file `machines`, so that the hub still lists a machine as silent that died before the hub
//! was restarted. No decision depends on any of this: a false state only affects the row of its machine.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::config::limits;
use crate::wire::fleet::{MachineCondition, MachineState};
use crate::wire::peers::{HeardMachine, MAX_MACHINES, PeerNews};
use crate::wire::{self, IdentityDoubt};
use crate::{clock, disk};

const FILE: &str = "machines";
/// Bytes of the file at most: a name has 63, and a line end.
const MAX_FILE_BYTES: usize = MAX_STATES * 64;

/// Machines whose state is kept; beyond that the oldest state is dropped.
const MAX_STATES: usize = limits::HOSTS as usize;
/// Removed machines that other hubs are told of, at most.
const MAX_FORGOTTEN: usize = 100;
/// Seconds after its last state at which a machine counts as silent.
const SILENT_SECONDS: u64 = 45;
/// The longest interval of requests from a machine that sends no state, such as an older version.
const MAX_POLL_SECONDS: u64 = 3600;
/// Messages that wait longer than this, although their machine calls, make it degraded.
const MAX_WAIT_SECONDS: u64 = 60;

/// The machines that send states.
pub struct Fleet {
    path: PathBuf,
    /// The hub time of its start in milliseconds.
    since: u64,
    inner: Mutex<Machines>,
}

#[derive(Default)]
struct Machines {
    /// The latest state by host.
    states: BTreeMap<String, ReportedState>,
    /// The names of all machines that have sent a state.
    names: BTreeSet<String>,
    /// The machines that were removed here last, each with the hub time, for the other hubs of a bucket.
    forgotten: VecDeque<(String, u64)>,
}

/// A state, and the hub time of its arrival in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportedState {
    pub state: MachineState,
    pub at: u64,
    /// It was told here, and not to another hub of the bucket.
    pub here: bool,
}

/// The facts from which a machine's condition is derived; times are ages in seconds.
#[derive(Debug, Clone, Default)]
pub struct ConditionFacts<'a> {
    /// The latest state, and its age.
    pub told: Option<(&'a MachineState, u64)>,
    /// The machine sends states, and could have sent one for so long.
    pub awaited: Option<u64>,
    /// The age of its last call; `None`: it has never called.
    pub seen: Option<u64>,
    /// Messages that wait for it.
    pub queued: u64,
    pub oldest_queued: Option<u64>,
    pub doubt: Option<IdentityDoubt>,
}

impl Fleet {
    /// Reads the names, and skips lines that are not names.
    pub fn open(data_dir: &Path, now: u64) -> Fleet {
        let path = data_dir.join(FILE);
        let text = match disk::read_at_most(&path, MAX_FILE_BYTES) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => {
                log::warn!("cannot read {}: {e}", path.display());
                String::new()
            }
        };
        let names = text.lines().filter_map(|line| wire::check_host(line).ok());
        let inner = Machines {
            names: names.collect(),
            ..Machines::default()
        };
        Fleet {
            path,
            since: now,
            inner: Mutex::new(inner),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Machines> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, names: &BTreeSet<String>) {
        let text: String = names.iter().map(|name| format!("{name}\n")).collect();
        if let Err(e) = disk::write_durably(&self.path, text.as_bytes(), 0o600) {
            log::warn!("{e}");
        }
    }

    /// Records the state in a header of this machine's request; an invalid one is ignored.
    pub fn note(&self, host: &str, header: &str, now: u64) {
        self.note_told(host, header, now, true);
    }

    /// Records what another hub has heard, unless something later is known.
    pub fn note_elsewhere(&self, news: &PeerNews, now: u64) {
        for host in &news.forgotten {
            self.remove(&mut self.lock(), host);
        }
        for HeardMachine { host, state, at } in &news.machines {
            if let Ok(host) = wire::check_host(host) {
                self.note_told(&host, state, (*at).min(now), false);
            }
        }
    }

    /// What was told or removed here after this time, and the time up to which that is all.
    pub fn news(&self, after: u64, now: u64) -> (PeerNews, u64) {
        let inner = self.lock();
        let new = inner
            .states
            .iter()
            .filter(|(_, told)| told.here && told.at > after);
        let mut heard: Vec<_> = new
            .map(|(host, told)| HeardMachine {
                host: host.clone(),
                state: told.state.header(),
                at: told.at,
            })
            .collect();
        heard.sort_by_key(|machine| machine.at);
        let is_all = heard.len() <= MAX_MACHINES;
        heard.truncate(MAX_MACHINES);
        let up_to = heard.last().map_or(now, |last| last.at);
        let forgotten = inner.forgotten.iter().filter(|(_, at)| *at > after);
        let news = PeerNews {
            written: false,
            machines: heard,
            forgotten: forgotten.map(|(host, _)| host.clone()).collect(),
        };
        // more may be told in this millisecond
        (news, if is_all { now.saturating_sub(1) } else { up_to })
    }

    fn note_told(&self, host: &str, header: &str, at: u64, here: bool) {
        let Some(state) = MachineState::parse(header) else {
            return;
        };
        let mut inner = self.lock();
        if !here && inner.states.get(host).is_some_and(|told| told.at >= at) {
            return;
        }
        if !inner.states.contains_key(host) && inner.states.len() >= MAX_STATES {
            let oldest = inner.states.iter().min_by_key(|(_, told)| told.at);
            if let Some(oldest) = oldest.map(|(host, _)| host.clone()) {
                inner.states.remove(&oldest);
                inner.names.remove(&oldest);
            }
        }
        let told = ReportedState { state, at, here };
        inner.states.insert(host.to_string(), told);
        if !inner.names.contains(host) {
            if inner.names.len() >= MAX_STATES {
                inner.names.pop_first();
            }
            inner.names.insert(host.to_string());
            self.write(&inner.names);
        }
    }

    /// Removes a host; returns whether it was known.
    pub fn forget(&self, host: &str, now: u64) -> bool {
        let mut inner = self.lock();
        if inner.forgotten.len() >= MAX_FORGOTTEN {
            inner.forgotten.pop_front();
        }
        inner.forgotten.push_back((host.to_string(), now));
        self.remove(&mut inner, host)
    }

    fn remove(&self, inner: &mut Machines, host: &str) -> bool {
        let is_told = inner.states.remove(host).is_some();
        if !inner.names.remove(host) {
            return is_told;
        }
        self.write(&inner.names);
        true
    }

    /// The machines that send states, or one of them, each with the seconds for which it could have sent one.
    pub fn awaited(&self, only: Option<&str>, now: u64) -> BTreeMap<String, u64> {
        let inner = self.lock();
        let age = now.saturating_sub(self.since) / 1000;
        let names = inner.names.iter();
        names
            .filter(|name| only.is_none_or(|only| only == *name))
            .map(|name| (name.clone(), age))
            .collect()
    }

    /// All states, or that of one host.
    pub fn all(&self, only: Option<&str>) -> BTreeMap<String, ReportedState> {
        let all = &self.lock().states;
        let own = |(host, told): (&String, &ReportedState)| (host.clone(), told.clone());
        match only {
            Some(host) => all.get_key_value(host).map(own).into_iter().collect(),
            None => all.iter().map(own).collect(),
        }
    }
}

/// The condition of a machine, and the reason if it is not in sync.
pub fn judge(of: &ConditionFacts) -> (MachineCondition, Option<String>) {
    let age = |seconds| clock::age(Duration::from_secs(seconds));
    let called = match (of.seen, of.awaited) {
        (Some(seen), _) => format!("it last called {} ago", age(seen)),
        (None, Some(_)) => "it has not called since the hub was started".into(),
        (None, None) => "it has never called".into(),
    };
    let is_missed = of.awaited.is_some_and(|awaited| awaited >= SILENT_SECONDS);
    let called_within = |seconds| of.seen.is_some_and(|seen| seen < seconds);
    let state = match of.told {
        Some((state, told)) if told < SILENT_SECONDS => state,
        Some((_, told)) if called_within(SILENT_SECONDS) => {
            let why = format!("it calls, but has reported no state for {}", age(told));
            return (MachineCondition::Unknown, Some(why));
        }
        None if is_missed && !called_within(SILENT_SECONDS) => {
            return (MachineCondition::Silent, Some(called));
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
            let (condition, why) = judge(&ConditionFacts {
                told: Some((&state, age)),
                seen: Some(age),
                queued,
                ..ConditionFacts::default()
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
            let (condition, _) = judge(&ConditionFacts {
                seen,
                ..ConditionFacts::default()
            });
            assert_eq!(condition, wants, "{seen:?}");
            assert!(!condition.is_healthy());
        };
        check(None, MachineCondition::Unknown);
        let state = MachineState::default();
        let (condition, why) = judge(&ConditionFacts {
            told: Some((&state, 45)),
            seen: Some(44),
            ..ConditionFacts::default()
        });
        let why = why.unwrap();
        assert_eq!(condition, MachineCondition::Unknown);
        assert_eq!(why, "it calls, but has reported no state for 45 s");
        check(Some(0), MachineCondition::Unknown);
        check(Some(10_799), MachineCondition::Unknown);
        check(Some(10_800), MachineCondition::Silent);
    }

    #[test]
    fn a_doubt_and_an_old_message_are_trouble_that_the_machine_does_not_know() {
        let state = MachineState::default();
        let check = |doubt, oldest_queued, wants: &str| {
            let (condition, why) = judge(&ConditionFacts {
                told: Some((&state, 0)),
                seen: Some(0),
                queued: 1,
                oldest_queued,
                doubt,
                ..ConditionFacts::default()
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
            Some(IdentityDoubt::Cloned),
            Some(0),
            "degraded: two machines act under this name",
        );
    }

    #[test]
    fn the_hub_keeps_a_bounded_number_of_states() {
        let dir = tempfile::tempdir().unwrap();
        let names: String = (0..MAX_STATES).map(|n| format!("h{n}\n")).collect();
        std::fs::write(dir.path().join(FILE), names).unwrap();
        let (fleet, header) = (Fleet::open(dir.path(), 0), MachineState::default().header());
        for n in 0..MAX_STATES as u64 + 3 {
            fleet.note(&format!("h{n}"), &header, n);
        }
        let all = fleet.all(None);
        assert_eq!(all.len(), MAX_STATES);
        assert_eq!(fleet.awaited(None, 0).len(), MAX_STATES);
        assert!(!all.contains_key("h2") && all.contains_key("h3"));
        fleet.note("h3", "{", 0);
        assert_eq!(fleet.all(Some("h3"))["h3"].at, 3);
        assert!(fleet.forget("h3", 0) && !fleet.forget("h3", 0));
    }

    #[test]
    fn what_another_hub_has_heard_counts_until_something_later_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let fleet = Fleet::open(dir.path(), 0);
        let state = |pending| MachineState {
            pending,
            ..MachineState::default()
        };
        let heard = |host: &str, pending, at| HeardMachine {
            host: host.into(),
            state: state(pending).header(),
            at,
        };
        let pending = |host: &str| {
            fleet
                .all(Some(host))
                .get(host)
                .map(|t| (t.state.pending, t.at))
        };
        fleet.note("web-1", &state(1).header(), 5000);
        let told = |machines: &[HeardMachine]| {
            let news = PeerNews {
                machines: machines.to_vec(),
                ..PeerNews::default()
            };
            fleet.note_elsewhere(&news, 6000);
        };
        told(&[heard("web-1", 2, 4999), heard("web-2", 3, 4000)]);
        assert_eq!(pending("web-1"), Some((1, 5000)));
        assert_eq!(pending("web-2"), Some((3, 4000)));
        // a hub is not told of its own machines by another, nor of those of a third
        let machines = |after| fleet.news(after, 6000).0.machines;
        assert_eq!(machines(0), [heard("web-1", 1, 5000)]);
        assert_eq!((machines(5000), fleet.news(0, 6000).1), (vec![], 5999));
        // the machine calls the other hub now; a time ahead of this hub's is this hub's
        told(&[heard("web-1", 4, 9000), heard("../x", 0, 0)]);
        assert_eq!(pending("web-1"), Some((4, 6000)));
        assert_eq!(machines(0), []);
        assert_eq!(fleet.all(None).len(), 2);
        // it is missed at this hub too
        assert_eq!(fleet.awaited(None, 0).len(), 2);
        // a machine that is removed at one hub is removed at all, and not told back
        let removed = PeerNews {
            forgotten: vec!["web-1".into()],
            ..PeerNews::default()
        };
        fleet.note_elsewhere(&removed, 6000);
        assert!(pending("web-1").is_none() && fleet.awaited(None, 0).len() == 1);
        assert!(fleet.news(0, 7000).0.forgotten.is_empty());
        assert!(fleet.forget("web-2", 6500));
        assert_eq!(fleet.news(6499, 7000).0.forgotten, ["web-2"]);
        assert!(fleet.news(6500, 7000).0.forgotten.is_empty());
    }

    #[test]
    fn more_machines_than_fit_into_the_news_are_told_in_turn() {
        let dir = tempfile::tempdir().unwrap();
        let fleet = Fleet::open(dir.path(), 0);
        let state = MachineState::default().header();
        let all = 2 * MAX_MACHINES as u64 + 1;
        (1..=all).for_each(|n| fleet.note(&format!("h{n}"), &state, n));
        let (mut told, mut after) = (Vec::new(), 0);
        for _ in 0..3 {
            let (news, up_to) = fleet.news(after, all + 1);
            told.extend(news.machines.into_iter().map(|machine| machine.at));
            after = up_to;
        }
        assert_eq!(told, (1..=all).collect::<Vec<_>>());
        assert_eq!(after, all);
    }

    #[test]
    fn a_machine_that_died_while_the_hub_was_off_is_missed_and_not_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let fleet = Fleet::open(dir.path(), 0);
        fleet.note("web-1", &MachineState::default().header(), 0);
        let fleet = Fleet::open(dir.path(), 7000);
        assert!(fleet.all(None).is_empty());
        let check = |now: u64, seen, wants: &str| {
            let awaited = fleet.awaited(Some("web-1"), now).get("web-1").copied();
            let (condition, why) = judge(&ConditionFacts {
                seen,
                awaited,
                ..ConditionFacts::default()
            });
            let got = format!("{}: {}", condition.words(), why.unwrap());
            assert_eq!(got, wants);
        };
        let never = "it has not called since the hub was started";
        check(
            7000 + 44_999,
            None,
            &format!("unknown: no state since the hub was started; {never}"),
        );
        check(7000 + 45_000, None, &format!("silent: {never}"));
        check(7000 + 45_000, Some(90), "silent: it last called 90 s ago");
        // an older version took its place
        check(
            7000 + 45_000,
            Some(44),
            "unknown: no state since the hub was started; it last called 44 s ago",
        );
        assert!(fleet.forget("web-1", 0));
        assert!(Fleet::open(dir.path(), 0).awaited(None, 0).is_empty());
    }
}
