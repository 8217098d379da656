//! The store, case by case; `model` runs random histories. Kills are tested from outside.

mod bench;
mod disk;
mod files;
mod hosts;
pub mod model;

use std::path::Path;

use redb::ReadableDatabase;
use tempfile::TempDir;
use uuid::Uuid;

use super::Store;
use super::messages::read::{PullRequest, Pulled};
use super::messages::tables;
use super::ops::files::FileLimits;
use super::ops::{Group, Incoming, Limits, Op, Outcome, Wake};
use crate::database::table::{OpenTable, ReadableTable};
use crate::error::Kind;
use crate::wire::revision::Tag;
use crate::wire::{Message, PostResult, Status};

impl Store {
    /// All tables as text.
    pub fn dump(&self) -> Vec<String> {
        let db = self.db.read().unwrap();
        let tx = db.as_ref().unwrap().begin_read().unwrap();
        let mut rows = Vec::new();
        macro_rules! rows {
            ($name:literal, $table:expr) => {
                for row in tx.table($table).unwrap().iter().unwrap() {
                    let (key, value) = row.unwrap();
                    rows.push(format!("{} {:?} {:?}", $name, key.value(), value.value()));
                }
            };
        }
        rows!("meta", crate::hub::store::meta::META);
        rows!("message", tables::MESSAGES);
        rows!("expiry", tables::EXPIRIES);
        rows!("broadcast", tables::BROADCASTS);
        rows!("targeted", tables::TARGETED);
        rows!("host", tables::HOSTS);
        rows!("id", tables::IDS);
        rows!("age", tables::ID_AGES);
        rows.extend(super::files::dump(&tx));
        rows
    }

    pub fn break_syncs(&self) {
        self.happened
            .break_syncs
            .store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// The findings of a check of the files, while the store is open.
    pub fn examine(&self) -> crate::hub::store::findings::Findings {
        let mut findings = crate::hub::store::findings::Findings::default();
        self.read(|tx| crate::hub::store::files::check(tx, self.dir(), &mut findings))
            .unwrap();
        findings
    }
}

const DAY: u64 = 86_400_000;
const LIMITS: Limits = Limits {
    ttl: 7 * DAY,
    queue_messages: 5,
    queue_bytes: 2_000_000,
    hosts: 10_000,
    space: 4_000_000,
    files: FILE_LIMITS,
};
const FILE_LIMITS: FileLimits = FileLimits {
    version_ttl: 30 * DAY,
};
const EPOCH: Uuid = Uuid::from_u128(0xe);

fn open(dir: &Path) -> Store {
    Store::open(dir, 1 << 20, 0, EPOCH).unwrap()
}

fn at(now: u64, ops: Vec<Op>) -> Group {
    Group {
        now,
        wall: now,
        full: false,
        tag: Tag(now),
        opened: 0,
        limits: LIMITS,
        ops,
    }
}

/// A message as `n source target`; target `*`: a broadcast.
fn message(text: &str, payload: &str) -> Incoming {
    let words: Vec<&str> = text.split(' ').collect();
    let target = if words[2] == "*" {
        "null".into()
    } else {
        format!("\"{}\"", words[2])
    };
    let id = Uuid::from_u128(words[0].parse().unwrap());
    let json = format!(
        r#"{{"id":"{id}","type":"x","source":"{}","target":{target},"payload":{payload}}}"#,
        words[1]
    );
    Incoming::admit(&Message::parse(json.as_bytes()).unwrap(), None).unwrap()
}

fn post(texts: &[&str]) -> Op {
    Op::Post(texts.iter().map(|text| message(text, "1")).collect())
}

fn instance(n: u128) -> Option<Uuid> {
    Some(Uuid::from_u128(n))
}

struct TestStore {
    store: Store,
    dir: TempDir,
    now: u64,
}

impl TestStore {
    fn new() -> TestStore {
        let dir = TempDir::new().unwrap();
        TestStore {
            store: open(dir.path()),
            dir,
            now: 1000,
        }
    }

    fn apply(&self, op: Op) -> Outcome {
        self.store.apply(&at(self.now, vec![op])).unwrap().remove(0)
    }

    fn post(&self, texts: &[&str]) -> Vec<PostResult> {
        let Outcome::Posted { results, .. } = self.apply(post(texts)) else {
            panic!("not posted")
        };
        results
    }

    /// Pulls like a client, and commits if needed; returns the numbers of the messages, and whether there are more.
    fn pull_as(
        &self,
        host: &str,
        instance: Option<Uuid>,
        after: Option<u64>,
        limit: usize,
    ) -> String {
        let ask = PullRequest {
            host: host.into(),
            instance,
            epoch: after.map(|_| EPOCH),
            after,
            id: None,
            limit,
            now: self.now,
            again: false,
        };
        let page = match self.store.pull(&ask).unwrap() {
            Pulled::Now(page) => page,
            Pulled::Once(op, page) => match self.apply(op) {
                Outcome::Pulled => page,
                other => return format!("{other:?}"),
            },
            other => return format!("{other:?}"),
        };
        let ids = page.messages.iter().map(|(seq, json)| {
            let id = Message::parse(json.as_bytes())
                .unwrap()
                .id
                .unwrap()
                .as_u128();
            format!("{seq}:{id} ")
        });
        format!(
            "{}{}",
            ids.collect::<String>(),
            if page.more { "more" } else { "" }
        )
        .trim()
        .to_string()
    }

    fn pull(&self, host: &str, after: Option<u64>) -> String {
        self.pull_as(host, instance(1), after, 100)
    }

    fn sweep(&self) {
        self.store.apply(&at(self.now, self.store.due())).unwrap();
        while self.apply(Op::Sweep) == (Outcome::Swept { more: true }) {}
        assert!(
            !self
                .store
                .wants_sweep(self.now, false, FILE_LIMITS)
                .unwrap()
        );
    }

    /// The numbers of stored messages and of remembered ids.
    fn kept(&self) -> (u64, usize) {
        let ids = dump(&self.store)
            .iter()
            .filter(|row| row.starts_with("id "))
            .count();
        (self.store.totals().unwrap().messages, ids)
    }
}

/// All tables as text.
fn dump(store: &Store) -> Vec<String> {
    store.dump()
}

#[test]
fn a_post_is_queued_known_or_refused() {
    let hub = TestStore::new();
    let check = |text: &str, payload: &str, wants: &str| {
        let Outcome::Posted { results, .. } = hub.apply(Op::Post(vec![message(text, payload)]))
        else {
            panic!()
        };
        let r = &results[0];
        let words = [r.error.as_deref(), r.warning.as_deref()]
            .into_iter()
            .flatten()
            .collect::<String>();
        let got = format!(
            "{:?}{} {words}",
            r.status,
            if r.retry { " retry" } else { "" }
        );
        assert!(got.starts_with(wants), "{text}: {got}");
    };
    check("1 a *", "{\"x\": 1}", "Queued ");
    check("1 a *", "{\"x\":1}", "Duplicate");
    check(
        "1 a *",
        "{\"x\":2}",
        "Rejected the id 00000000-0000-0000-0000-000000000001 was used for another message",
    );
    check("1 a b", "{\"x\":1}", "Rejected the id");
    check("2 a b", "1", "Queued no host \"b\" has pulled yet");
    hub.pull("b", None);
    check("3 a b", "1", "Queued ");
    (4..7).for_each(|n| check(&format!("{n} a b"), "1", "Queued"));
    check(
        "7 a b",
        "1",
        "Rejected retry the queue of \"b\" is full: 5 messages",
    );
    check("6 a b", "1", "Duplicate");
    let long = format!("\"{}\"", "x".repeat(200_000));
    (10..19).for_each(|n| {
        check(
            &format!("{n} a c"),
            if n < 14 { &long } else { "1" },
            if n < 15 { "Queued" } else { "Rejected retry" },
        )
    });
    (20..35).for_each(|n| check(&format!("{n} a *"), &long, "Queued"));
    check(
        "35 a *",
        &long,
        "Rejected retry the hub's space for messages is full",
    );
    let full = Group {
        full: true,
        ..at(
            hub.now,
            vec![post(&["40 a *"]), Op::DeleteHost { host: "c".into() }],
        )
    };
    assert_eq!(
        hub.store.apply(&full).unwrap(),
        [Outcome::DiskFull, Outcome::Done]
    );
    check("35 a *", &long, "Queued");
}

#[test]
fn one_request_may_hold_good_and_bad_and_says_whom_to_wake() {
    let hub = TestStore::new();
    let outcome = hub.apply(post(&[
        "1 a *", "1 a *", "1 b *", "2 a b", "3 a *", "4 b a",
    ]));
    let Outcome::Posted { results, wakes } = outcome else {
        panic!()
    };
    use Status::{Duplicate, Queued, Rejected};
    assert_eq!(
        results.iter().map(|r| r.status).collect::<Vec<_>>(),
        [Queued, Duplicate, Rejected, Queued, Queued, Queued]
    );
    assert_eq!(
        wakes,
        [
            Wake::Host("a".into()),
            Wake::Host("b".into()),
            Wake::AllBut("a".into())
        ]
    );
}

#[test]
fn each_host_gets_its_messages_in_order() {
    let hub = TestStore::new();
    hub.post(&["1 x *", "2 x b"]);
    assert_eq!(
        hub.pull("a", None),
        "",
        "a broadcast before its registration"
    );
    assert_eq!(hub.pull("b", None), "2:2", "what was held for it");
    hub.post(&["3 a *", "4 b *", "5 a b", "6 a a", "7 x *"]);
    assert_eq!(
        hub.pull("a", None),
        "4:4 6:6 7:7",
        "not its own broadcast, but what it sent to itself"
    );
    assert_eq!(hub.pull("b", None), "2:2 3:3 5:5 7:7");
    assert_eq!(hub.pull_as("b", instance(1), Some(2), 2), "3:3 5:5 more");
    assert_eq!(hub.pull_as("b", instance(1), Some(5), 2), "7:7");
    assert_eq!(hub.pull("b", Some(7)), "");
    assert_eq!(hub.pull("b", Some(3)), "", "a cursor does not go back");
    assert_eq!(hub.pull("b", None), "");
    assert_eq!(hub.pull("a", Some(4)), "6:6 7:7");
}

#[test]
fn a_page_is_bounded_but_never_empty() {
    let hub = TestStore::new();
    hub.apply(Op::PutHost { host: "b".into() });
    let long = |n: usize| format!("\"{}\"", "x".repeat(n));
    hub.apply(Op::Post(vec![
        message("1 a *", &long(250_000)),
        message("2 a *", &long(20_000)),
        message("3 a *", "1"),
    ]));
    assert_eq!(hub.pull("b", None), "1:1 more");
    assert_eq!(hub.pull("b", Some(1)), "2:2 3:3");
}

#[test]
fn an_ack_is_durable_before_further_messages_are_named_and_idle_pulls_write_nothing() {
    let hub = TestStore::new();
    hub.pull("b", None);
    hub.post(&["1 a *", "2 a *"]);
    let syncs = || hub.store.written()[0];
    let before = syncs();
    assert_eq!(hub.pull("b", None), "1:1 2:2");
    assert_eq!(hub.pull("b", None), "1:1 2:2");
    assert_eq!(syncs(), before, "nothing to write");
    assert_eq!(hub.pull("b", Some(1)), "2:2");
    assert_eq!(syncs(), before + 1, "1 is done with, and 2 is named");
    (0..5).for_each(|_| assert_eq!(hub.pull("b", Some(2)), ""));
    assert_eq!(syncs(), before + 1);
    let ops = [hub.store.due(), vec![post(&["3 a *"])]].concat();
    hub.store.apply(&at(hub.now, ops)).unwrap();
    assert_eq!(hub.pull("b", Some(2)), "3:3");
    assert_eq!(syncs(), before + 2, "the ack of 2 rode along with 3");
    hub.post(&["3 a *"]);
    assert_eq!(syncs(), before + 2, "a duplicate");
}

#[test]
fn messages_without_waiting_targets_are_removed() {
    let mut hub = TestStore::new();
    hub.pull("a", None);
    hub.pull("b", None);
    hub.post(&["1 a *", "2 a *", "3 a b", "4 b *"]);
    hub.pull("b", Some(2));
    hub.sweep();
    assert_eq!(
        hub.kept(),
        (4, 4),
        "a has not pulled, so its cursor stands before 1"
    );
    hub.pull("a", Some(0));
    hub.pull("a", Some(4));
    hub.sweep();
    assert_eq!(
        hub.kept(),
        (2, 4),
        "1 and 2 are done with by b, and a's own"
    );
    hub.pull("b", Some(3));
    hub.store.apply(&at(hub.now, hub.store.due())).unwrap();
    assert!(hub.store.wants_sweep(hub.now, false, FILE_LIMITS).unwrap());
    hub.sweep();
    assert_eq!(hub.kept(), (0, 4), "4 is b's own");
    hub.now += 14 * DAY - 1;
    hub.sweep();
    assert_eq!(hub.kept().1, 4);
    hub.now += 2;
    hub.sweep();
    assert_eq!(hub.kept().1, 0, "ids are forgotten after 14 days");
}

#[test]
fn everything_ends_at_its_time() {
    let mut hub = TestStore::new();
    hub.pull("b", None);
    let mut short = message("1 a *", "1");
    short.ttl = Some(60_000);
    hub.apply(Op::Post(vec![
        short,
        message("2 a *", "1"),
        message("3 a nobody", "1"),
    ]));
    hub.now += 60_001;
    assert_eq!(hub.pull("b", None), "2:2", "not handed out, swept or not");
    hub.sweep();
    assert_eq!(hub.kept().0, 2);
    assert_eq!(hub.store.hosts(None, hub.now).unwrap().len(), 2);
    hub.now += 7 * DAY;
    hub.sweep();
    assert_eq!((hub.kept().0, hub.store.totals().unwrap().bytes), (0, 0));
    assert_eq!(
        hub.store.hosts(None, hub.now).unwrap().len(),
        1,
        "a name that never pulled is forgotten with its queue"
    );
}

#[test]
fn a_broadcast_for_a_host_that_registered_in_the_same_group_is_kept() {
    let hub = TestStore::new();
    let ops = vec![
        Op::PutHost { host: "a".into() },
        post(&["1 b *"]),
        Op::Sweep,
    ];
    hub.store.apply(&at(hub.now, ops)).unwrap();
    assert_eq!(hub.pull("a", None), "1:1");
}

#[test]
fn own_broadcasts_are_neither_returned_nor_delay_others() {
    let hub = TestStore::new();
    hub.pull("a", None);
    for batch in 0..20 {
        let texts: Vec<String> = (0..500)
            .map(|n| format!("{} a *", batch * 500 + n + 1))
            .collect();
        hub.post(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    }
    hub.post(&["20001 a *", "20002 b *"]);
    assert_eq!(hub.pull("a", Some(0)), "10002:20002");
    assert_eq!(
        hub.store.live().skip("a", 0),
        10_001,
        "the next pull reads all of them again"
    );
    assert_eq!(hub.pull("a", Some(0)), "10002:20002");
    hub.pull("a", Some(10_002));
    hub.sweep();
    assert_eq!(hub.kept().0, 0);
}

#[test]
fn a_broadcast_costs_the_same_for_three_hosts_and_a_hundred() {
    let cost = |hosts: usize| {
        let hub = TestStore::new();
        (0..hosts).for_each(|n| drop(hub.pull(&format!("host-{n:03}"), None)));
        let before = hub.store.written();
        (1..=50).for_each(|n| drop(hub.post(&[&format!("{n} x *")])));
        let after = hub.store.written();
        [0, 1, 2].map(|i| after[i] - before[i])
    };
    let (few, many) = (cost(3), cost(100));
    assert_eq!(few[0], 50, "one sync a commit");
    // syncs, writes, bytes: equal except for the layout of pages
    (0..3).for_each(|i| {
        assert!(
            many[i] <= few[i] * 21 / 20,
            "{few:?} for 3 hosts, {many:?} for 100"
        )
    });
}
