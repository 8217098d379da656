//! Random histories of posts, pulls, acks, rebinds, crashes and passing time, against a plain map.
//!
//! The model knows the accepted messages of each host and those that each client acknowledged; the store must return exactly
//! the difference. A failure prints its seed.

use std::collections::BTreeMap;

use super::*;

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// splitmix64
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

#[derive(Debug)]
struct Accepted {
    id: u128,
    source: usize,
    target: Option<usize>,
    expires: u64,
    /// Hosts that were registered at that time.
    registered: Vec<usize>,
}

#[derive(Debug, Clone, Default)]
struct Client {
    registered: bool,
    instance: u128,
    bound: u128,
    /// The last acknowledged seq: a crash may lose an ack, but not below `durable`.
    cursor: u64,
    durable: u64,
    last_seen: u64,
    /// It was stale once: broadcasts of that time may have been removed.
    was_stale: u64,
}

struct World {
    random: Random,
    hub: TestStore,
    log: BTreeMap<u64, Accepted>,
    /// What was queued under an id, and when.
    ids: BTreeMap<u128, (Incoming, u64)>,
    last_id: u64,
    clients: Vec<Client>,
    groups: Vec<Group>,
    pulled: usize,
}

const HOSTS: [&str; 4] = ["a", "b", "c", "d"];

impl World {
    fn new(seed: u64) -> World {
        let clients = (0..HOSTS.len() as u128)
            .map(|n| Client {
                instance: n + 1,
                bound: n + 1,
                ..Client::default()
            })
            .collect();
        let (log, ids) = Default::default();
        World {
            random: Random(seed),
            hub: scratch(),
            log,
            ids,
            last_id: 0,
            clients,
            groups: Vec::new(),
            pulled: 0,
        }
    }

    fn apply(&mut self, ops: Vec<Op>) -> Vec<Outcome> {
        let (riding, now) = (self.hub.store.due(), self.hub.now);
        for op in &riding {
            let Op::Seen { host, .. } = op else {
                panic!("{op:?}")
            };
            let client = &mut self.clients[index(host)];
            client.durable = client.cursor;
        }
        let n = riding.len();
        let group = at(now, [riding, ops].concat());
        self.groups.push(group.clone());
        self.hub.store.apply(&group).unwrap().split_off(n)
    }

    fn pending(&self, host: usize, after: u64) -> Vec<u64> {
        let client = &self.clients[host];
        let wanted = |seq: u64, m: &Accepted| {
            seq > client.cursor.max(after)
                && m.expires > self.hub.now
                && m.target
                    .map_or(m.registered.contains(&host) && m.source != host, |target| {
                        target == host
                    })
        };
        self.log
            .iter()
            .filter(|(seq, m)| wanted(**seq, m))
            .map(|(seq, _)| *seq)
            .collect()
    }

    fn post(&mut self) {
        let mut messages = Vec::new();
        for _ in 0..=self.random.below(3) {
            let (source, target) = (self.random.below(4) as usize, self.random.below(8) as usize);
            let known = self.random.below(6) == 0 && self.last_id > 0;
            self.last_id += u64::from(!known);
            let n = if known {
                1 + self.random.below(self.last_id)
            } else {
                self.last_id
            };
            let mut m = message(
                &format!(
                    "{n} {} {}",
                    HOSTS[source],
                    HOSTS.get(target).unwrap_or(&"*")
                ),
                "1",
            );
            m.ttl = [None, None, None, Some(60_000), Some(DAY)][self.random.below(5) as usize];
            messages.push(m);
        }
        let outcome = self.apply(vec![Op::Post(messages.clone())]).remove(0);
        let Outcome::Posted { results, .. } = outcome else {
            panic!("{outcome:?}")
        };
        let mut waiting: Vec<usize> = (0..4).map(|h| self.targeted_rows(h)).collect();
        for (m, result) in messages.into_iter().zip(results) {
            let target = m.target.as_deref().map(index);
            let wants = match self.ids.get(&m.id.as_u128()) {
                // perhaps removed: the model does not know the progress of the sweep
                Some((_, at)) if self.hub.now > at + 14 * DAY => result.status,
                Some((known, _)) if known.digest == m.digest => Status::Duplicate,
                Some(_) => Status::Rejected,
                // the queue may be full of expired messages, for the same reason
                None if target.is_some_and(|t| waiting[t] >= 5) => result.status,
                None => Status::Queued,
            };
            assert_eq!(result.status, wants, "{result:?}");
            if result.status != Status::Queued {
                continue;
            }
            assert!(target.is_none_or(|t| result.warning.is_some() != self.clients[t].registered));
            if let Some(t) = target {
                waiting[t] += 1;
            }
            let seq = self.log.keys().last().copied().unwrap_or(0) + 1;
            let registered = (0..4).filter(|h| self.clients[*h].registered).collect();
            let expires = self.hub.now + m.ttl.unwrap_or(LIMITS.ttl);
            let source = index(&m.source);
            self.log.insert(
                seq,
                Accepted {
                    id: m.id.as_u128(),
                    source,
                    target,
                    expires,
                    registered,
                },
            );
            self.ids.insert(m.id.as_u128(), (m, self.hub.now));
        }
    }

    /// Targeted messages that the store may still count.
    fn targeted_rows(&self, host: usize) -> usize {
        self.log
            .iter()
            .filter(|(seq, m)| m.target == Some(host) && **seq > self.clients[host].durable)
            .count()
    }

    /// A client pulls. Sometimes the answer is lost, and the next pull repeats the request.
    fn pull(&mut self, host: usize) {
        let c = self.clients[host].clone();
        let limit = 1 + self.random.below(4) as usize;
        let after = match self.random.below(8) {
            0 => None,
            1 => Some(self.random.below(c.cursor + 1)),
            // acknowledge the first few pending messages, or all
            n => {
                let pending = self.pending(host, 0);
                pending
                    .get(n as usize - 2)
                    .or(pending.last())
                    .copied()
                    .or(Some(c.cursor))
            }
        };
        let ask = PullRequest {
            host: HOSTS[host].into(),
            instance: Some(Uuid::from_u128(c.instance)),
            epoch: after.map(|_| EPOCH),
            after,
            id: None,
            limit,
            now: self.hub.now,
            again: false,
        };
        let (page, committed) = match self.hub.store.pull(&ask).unwrap() {
            Pulled::OtherInstance => return assert!(c.registered && c.instance != c.bound),
            Pulled::Now(page) => (page, false),
            Pulled::Once(op, page) => {
                assert_eq!(self.apply(vec![op]), [Outcome::Pulled]);
                (page, true)
            }
            other => panic!("{other:?}"),
        };
        assert!(
            !c.registered || c.instance == c.bound,
            "another instance was let in"
        );
        let wants = self.pending(host, after.unwrap_or(0));
        let got: Vec<u64> = page.messages.iter().map(|(seq, _)| *seq).collect();
        let maybe_gone = |seq: u64| {
            self.log[&seq].target.is_none() && self.log[&seq].expires < c.was_stale + 8 * DAY
        };
        let certain: Vec<u64> = wants
            .iter()
            .copied()
            .filter(|seq| got.contains(seq) || !maybe_gone(*seq))
            .take(limit)
            .collect();
        assert_eq!(got, certain, "{} pulls after {after:?}", HOSTS[host]);
        assert!(page.more || wants.iter().filter(|seq| !maybe_gone(**seq)).count() <= got.len());
        for (seq, json) in &page.messages {
            assert_eq!(
                Message::parse(json.as_bytes())
                    .unwrap()
                    .id
                    .unwrap()
                    .as_u128(),
                self.log[seq].id
            );
        }
        self.pulled += got.len();
        let client = &mut self.clients[host];
        client.cursor = client.cursor.max(after.unwrap_or(0));
        (client.registered, client.bound, client.last_seen) = (true, client.instance, self.hub.now);
        if committed || !got.is_empty() {
            client.durable = client.cursor;
        }
    }

    fn crash(&mut self) {
        let now = self.hub.now;
        // the old one must be closed before its file can be opened again
        let spare = scratch();
        drop(std::mem::replace(&mut self.hub.store, spare.store));
        self.hub.store =
            Store::open(self.hub.dir.path(), 1 << 20, now, Uuid::from_u128(99)).unwrap();
        assert!(self.hub.store.resumed_at() <= now);
        for view in self.hub.store.hosts(None, now).unwrap() {
            let client = &mut self.clients[index(&view.name)];
            assert!(
                view.row.cursor >= client.durable,
                "a durable ack of {} is lost: {} {client:?}",
                view.name,
                view.row.cursor
            );
            client.cursor = client.cursor.min(view.row.cursor);
        }
    }

    fn step(&mut self) {
        let host = self.random.below(4) as usize;
        match self.random.below(100) {
            0..35 => self.post(),
            35..78 => self.pull(host),
            78..84 => drop(self.apply(vec![Op::Sweep])),
            84..88 => self.crash(),
            88..94 => self.hub.now += [1, 1000, 61_000, 3_600_000][self.random.below(4) as usize],
            94..96 => {
                self.hub.now += [DAY, 3 * DAY, 8 * DAY, 31 * DAY][self.random.below(4) as usize];
                for client in &mut self.clients {
                    if self.hub.now > client.last_seen + super::super::messages::STALE_HOST_MILLIS {
                        client.was_stale = self.hub.now;
                    }
                }
            }
            96 => {
                let name = HOSTS[host].to_string();
                let was = self.clients[host].registered;
                let instance = self.clients[host].instance + 10;
                let outcome = self.apply(vec![Op::Rebind {
                    host: name,
                    instance: Some(Uuid::from_u128(instance)),
                }]);
                assert_eq!(
                    outcome,
                    [if was {
                        Outcome::Done
                    } else {
                        Outcome::NoSuchHost
                    }]
                );
                if was {
                    self.clients[host].bound = instance;
                    if self.random.below(4) > 0 {
                        self.clients[host].instance = instance;
                    }
                }
            }
            97 => {
                self.apply(vec![Op::DeleteHost {
                    host: HOSTS[host].into(),
                }]);
                let seq = self.log.keys().last().copied().unwrap_or(0);
                // the model does not use its last number again either
                self.log.retain(|q, m| m.target != Some(host) || *q == seq);
                if let Some(m) = self.log.get_mut(&seq).filter(|m| m.target == Some(host)) {
                    m.expires = 0;
                }
                self.log
                    .values_mut()
                    .for_each(|m| m.registered.retain(|h| *h != host));
                let instance = self.clients[host].instance;
                self.clients[host] = Client {
                    instance,
                    bound: instance,
                    ..Client::default()
                };
            }
            98 => self.clients[host].instance = self.clients[host].bound,
            _ => drop(self.apply(Vec::new())),
        }
    }

    /// All clients pull everything; then no message waits.
    fn end(&mut self) {
        self.clients.iter_mut().for_each(|c| c.instance = c.bound);
        for (host, name) in HOSTS.iter().enumerate() {
            for _ in 0..1000 {
                let done = self.clients[host].registered && self.pending(host, 0).is_empty();
                self.pull(host);
                if done {
                    break;
                }
            }
            assert!(self.pending(host, 0).is_empty(), "{name} never got all");
        }
        self.apply(vec![Op::Sweep]);
        let views = self.hub.store.hosts(None, self.hub.now).unwrap();
        assert!(
            views.iter().all(|v| v.queued == 0 && v.oldest.is_none()),
            "{views:?}"
        );
        // a client's own last broadcasts, and those that a stale client was not offered, wait for its next pull
        let later = self.hub.now + 8 * DAY;
        while self.hub.store.apply(&at(later, vec![Op::Sweep])).unwrap()
            == [Outcome::Swept { more: true }]
        {}
        assert_eq!(
            self.hub.store.totals().unwrap(),
            tables::Totals {
                messages: 0,
                bytes: 0,
                ..self.hub.store.totals().unwrap()
            }
        );
        self.groups.push(at(later, vec![Op::Sweep]));
    }
}

fn index(host: &str) -> usize {
    HOSTS.iter().position(|h| *h == host).unwrap()
}

/// In memory if possible: the cost of a sync does not matter here.
fn scratch() -> TestStore {
    let dir = TempDir::new_in("/dev/shm")
        .or_else(|_| TempDir::new())
        .unwrap();
    TestStore {
        store: open(dir.path()),
        dir,
        now: 1000,
    }
}

#[test]
fn random_histories_agree_with_a_plain_map_and_can_be_replayed() {
    let start: u64 = std::env::var("SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(1);
    let count: u64 = std::env::var("SEEDS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(20);
    let mut pulled = 0;
    for seed in start..start + count {
        let ran = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            (0..250).for_each(|_| world.step());
            world.end();
            let again = scratch();
            world
                .groups
                .iter()
                .for_each(|group| drop(again.store.apply(group).unwrap()));
            assert_eq!(
                dump(&again.store),
                dump(&world.hub.store),
                "the same groups gave other tables"
            );
            world.pulled
        });
        pulled += ran.unwrap_or_else(|_| panic!("failed with SEED={seed} SEEDS=1"));
    }
    assert!(
        pulled as u64 > 20 * count,
        "the histories deliver almost nothing: {pulled}"
    );
}
