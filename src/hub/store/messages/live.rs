//! Acks and times of pulls that are not yet written: the next commit writes them too.
//!
//! They are in memory only. After a crash, hosts receive some messages again and discard them as known.

use std::collections::HashMap;

use uuid::Uuid;

use super::apply::SEEN_STEP;
use crate::hub::store::ops::Op;

/// One entry for each registered host that has pulled since the start.
#[derive(Debug, Clone, Default)]
pub struct LiveHost {
    instance: Option<Uuid>,
    through: u64,
    seen: u64,
    /// `through` and `seen` as on the disk.
    written: (u64, u64),
    /// Since when something has waited to be written.
    waits: Option<u64>,
    /// (from, to]: all broadcasts in this range are the host's own, and need not be read again.
    own: (u64, u64),
}

#[derive(Debug, Default)]
pub struct Live {
    hosts: HashMap<String, LiveHost>,
}

impl Live {
    /// Records a pull by `instance` at `now`, which acknowledges everything through `through`; the disk has `written` of
    /// `through` and `seen`.
    pub fn note(
        &mut self,
        host: &str,
        instance: Option<Uuid>,
        through: u64,
        now: u64,
        written: (u64, u64),
    ) {
        let entry = self.hosts.entry(host.to_string()).or_default();
        if entry.instance != instance {
            *entry = LiveHost {
                instance,
                ..LiveHost::default()
            };
        }
        entry.through = entry.through.max(through);
        entry.seen = entry.seen.max(now);
        entry.written = (
            entry.written.0.max(written.0),
            entry.written.1.max(written.1),
        );
        if entry.is_due() {
            entry.waits.get_or_insert(now);
        }
    }

    /// The last seq that a host has acknowledged, if its instance is unchanged; 0 if unknown.
    pub fn through(&self, host: &str, instance: Option<Uuid>) -> u64 {
        self.hosts
            .get(host)
            .filter(|e| e.instance == instance)
            .map_or(0, |e| e.through)
    }

    /// When a host was last seen, if that is not on the disk yet; 0 if unknown.
    pub fn seen(&self, host: &str) -> u64 {
        self.hosts.get(host).map_or(0, |e| e.seen)
    }

    /// The seq after which to search for broadcasts of other hosts, not before `from`.
    pub fn skip(&self, host: &str, from: u64) -> u64 {
        self.hosts
            .get(host)
            .filter(|e| (e.own.0..=e.own.1).contains(&from))
            .map_or(from, |e| e.own.1)
    }

    /// Records that all broadcasts after `from` through `to` are the host's own.
    pub fn own(&mut self, host: &str, from: u64, to: u64) {
        if let Some(e) = self.hosts.get_mut(host).filter(|_| to > from) {
            // extend the known range if the two meet, so that it may begin at an older cursor
            let joined = (e.own.0..=e.own.1).contains(&from);
            e.own = if joined {
                (e.own.0, e.own.1.max(to))
            } else {
                (from, to)
            };
        }
    }

    /// The operations to be written by the next commit.
    pub fn due(&self) -> Vec<Op> {
        let mut due: Vec<Op> = (self.hosts.iter().filter(|(_, e)| e.is_due()))
            .map(|(host, e)| Op::Seen {
                host: host.clone(),
                instance: e.instance,
                through: e.through,
                seen: e.seen,
            })
            .collect();
        // sort, because a map has no order and equal inputs must make equal groups
        due.sort_by(|a, b| name(a).cmp(name(b)));
        due
    }

    /// Since when the oldest of them has waited; `acks`: of those that acknowledge something.
    pub fn waits_since(&self, acks: bool) -> Option<u64> {
        let due = self.hosts.values().filter(|e| !acks || e.has_ack());
        due.filter_map(|e| e.waits).min()
    }

    /// These operations are on the disk.
    pub fn settle(&mut self, ops: &[Op]) {
        for op in ops {
            match op {
                Op::Seen {
                    host,
                    through,
                    seen,
                    ..
                } => {
                    let Some(e) = self.hosts.get_mut(host) else {
                        continue;
                    };
                    e.written = (e.written.0.max(*through), e.written.1.max(*seen));
                    e.waits = e.waits.filter(|_| e.is_due());
                }
                Op::DeleteHost { host } => drop(self.hosts.remove(host)),
                _ => {}
            }
        }
    }
}

impl LiveHost {
    fn has_ack(&self) -> bool {
        self.through > self.written.0
    }

    fn is_due(&self) -> bool {
        self.has_ack() || self.seen >= self.written.1.saturating_add(SEEN_STEP)
    }
}

fn name(op: &Op) -> &str {
    match op {
        Op::Seen { host, .. } => host,
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_changed_cursors_only() {
        let (mut live, me) = (Live::default(), Some(Uuid::from_u128(1)));
        live.note("a", me, 5, 1000, (5, 1000));
        assert!(live.due().is_empty(), "an idle pull");
        live.note("a", me, 7, 2000, (5, 1000));
        assert_eq!(
            (
                live.through("a", me),
                live.through("a", None),
                live.waits_since(true)
            ),
            (7, 0, Some(2000))
        );
        let due = live.due();
        assert_eq!(
            due,
            [Op::Seen {
                host: "a".into(),
                instance: me,
                through: 7,
                seen: 2000
            }]
        );
        live.note("a", me, 8, 3000, (5, 1000));
        live.settle(&due);
        assert_eq!(live.due().len(), 1, "one more came while that was written");
        live.settle(&live.due());
        assert!(live.due().is_empty() && live.waits_since(false).is_none());
        live.note("a", me, 8, 3000 + SEEN_STEP, (5, 1000));
        assert_eq!(live.due().len(), 1, "seen again after ten minutes");
        let waits = (live.waits_since(true), live.waits_since(false));
        assert_eq!(waits, (None, Some(3000 + SEEN_STEP)));
        ["d", "b", "e", "c"]
            .iter()
            .for_each(|host| live.note(host, me, 1, 0, (0, 0)));
        assert_eq!(
            live.due().iter().map(name).collect::<String>(),
            "abcde",
            "in order"
        );
        live.note("a", None, 0, 3000, (0, 3000));
        assert_eq!(live.through("a", me), 0, "another instance begins anew");
    }

    #[test]
    fn own_broadcasts_are_looked_at_once() {
        let mut live = Live::default();
        live.note("a", None, 0, 0, (0, 0));
        live.own("a", 10, 20);
        let check = |live: &Live, from, wants| assert_eq!(live.skip("a", from), wants, "{from}");
        [(9, 9), (10, 20), (15, 20), (20, 20), (21, 21)]
            .into_iter()
            .for_each(|(from, wants)| check(&live, from, wants));
        live.own("a", 20, 30);
        check(&live, 10, 30);
        live.own("a", 40, 50);
        check(&live, 10, 10);
    }
}
