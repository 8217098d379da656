//! Hosts: their instances, cursors and queues, and their removal.

use super::*;

#[test]
fn a_name_belongs_to_one_instance_until_it_is_rebound() {
    let mut hub = TestStore::new();
    hub.apply(Op::PutHost { host: "b".into() });
    hub.post(&["1 a *", "2 a b", "3 a *"]);
    assert_eq!(
        hub.pull_as("b", instance(1), None, 9),
        "1:1 2:2 3:3",
        "the first to come is adopted"
    );
    assert_eq!(hub.pull_as("b", instance(2), None, 9), "OtherInstance");
    assert_eq!(hub.pull_as("b", None, None, 9), "OtherInstance");
    assert_eq!(hub.pull_as("b", instance(1), Some(2), 9), "3:3");
    assert_eq!(hub.pull_as("b", instance(1), Some(3), 9), "");
    // the ack of 3 is in memory only: the group that rebinds writes it
    let ops = [
        hub.store.due(),
        vec![Op::Rebind {
            host: "b".into(),
            instance: instance(2),
        }],
    ]
    .concat();
    assert_eq!(
        hub.store.apply(&at(hub.now, ops)).unwrap(),
        [Outcome::Done, Outcome::Done]
    );
    assert_eq!(hub.pull_as("b", instance(1), Some(3), 9), "OtherInstance");
    assert_eq!(hub.pull_as("b", instance(2), None, 9), "");
    assert_eq!(
        hub.apply(Op::Rebind {
            host: "b".into(),
            instance: None
        }),
        Outcome::Done
    );
    hub.now += 1;
    assert_eq!(hub.pull_as("b", instance(3), None, 9), "");
    assert_eq!(
        hub.apply(Op::Rebind {
            host: "c".into(),
            instance: None
        }),
        Outcome::NoSuchHost
    );
    // decided again at the commit: a rebind may have happened between read and write
    let op = Op::Pull {
        host: "b".into(),
        instance: instance(2),
        through: 3,
    };
    assert_eq!(hub.apply(op), Outcome::OtherInstance);
    hub.post(&["4 a *"]);
    hub.apply(Op::Seen {
        host: "b".into(),
        instance: instance(2),
        through: 4,
        seen: hub.now,
    });
    assert_eq!(hub.pull_as("b", instance(3), None, 9), "4:4");
}

#[test]
fn cursors_of_another_history_are_refused() {
    let hub = TestStore::new();
    hub.pull("b", None);
    let ask = PullRequest {
        host: "b".into(),
        instance: instance(1),
        epoch: instance(7),
        after: Some(0),
        id: None,
        limit: 9,
        now: hub.now,
        again: false,
    };
    assert_eq!(hub.store.pull(&ask).unwrap(), Pulled::OtherEpoch);
    assert_eq!(hub.pull("b", Some(1)), "OtherHistory");
    assert_eq!(hub.pull("b", Some(0)), "");
    // the disk was restored, and the number used again
    hub.post(&["1 a *", "2 a *"]);
    let pull = |id| {
        hub.store
            .pull(&PullRequest {
                epoch: Some(EPOCH),
                after: Some(1),
                id,
                ..ask.clone()
            })
            .unwrap()
    };
    assert!(
        matches!(pull(Some(Uuid::from_u128(1))), Pulled::Once(_, page) if page.messages.len() == 1)
    );
    assert_eq!(pull(Some(Uuid::from_u128(9))), Pulled::OtherHistory);
}

#[test]
fn a_host_unseen_for_a_month_holds_nothing_back() {
    let mut hub = TestStore::new();
    hub.pull("a", None);
    hub.pull("b", None);
    hub.now += 30 * DAY + 1;
    hub.pull("a", None);
    hub.post(&["1 x *", "2 x b"]);
    assert_eq!(hub.pull("a", None), "1:1");
    hub.pull("a", Some(1));
    hub.sweep();
    let views = hub.store.hosts(None, hub.now).unwrap();
    assert_eq!(
        views
            .iter()
            .map(|v| (v.stale, v.queued))
            .collect::<Vec<_>>(),
        [(false, 0), (true, 1)]
    );
    assert_eq!(
        hub.pull("b", None),
        "2:2",
        "what was targeted at it is still there"
    );
}

#[test]
fn hosts_are_counted_in_one_pass() {
    let mut hub = TestStore::new();
    ["a", "b", "c"]
        .iter()
        .for_each(|host| drop(hub.pull(host, None)));
    for (i, text) in ["1 a *", "2 b *", "3 a *", "4 x c", "5 c *"]
        .iter()
        .enumerate()
    {
        hub.now = 2000 + i as u64;
        hub.post(&[text]);
    }
    hub.pull("d", None);
    hub.pull("b", Some(1));
    let got: Vec<_> = hub
        .store
        .hosts(None, hub.now)
        .unwrap()
        .iter()
        .map(|v| format!("{} {} {:?}", v.name, v.queued, v.oldest))
        .collect();
    assert_eq!(
        got,
        [
            "a 2 Some(2001)",
            "b 2 Some(2002)",
            "c 4 Some(2000)",
            "d 0 None"
        ]
    );
    assert_eq!(hub.store.hosts(Some("c"), hub.now).unwrap()[0].queued, 4);
    assert!(hub.store.hosts(Some("nobody"), hub.now).unwrap().is_empty());
}

#[test]
fn a_host_that_is_deleted_leaves_nothing_behind() {
    let hub = TestStore::new();
    hub.pull("b", None);
    hub.post(&["1 a b", "2 a b", "3 a *"]);
    assert_eq!(
        hub.apply(Op::DeleteHost { host: "b".into() }),
        Outcome::Done
    );
    assert_eq!(
        hub.apply(Op::DeleteHost { host: "b".into() }),
        Outcome::NoSuchHost
    );
    assert_eq!(hub.kept().0, 1);
    assert_eq!(
        hub.pull_as("b", instance(2), None, 9),
        "",
        "it begins anew, as whatever machine"
    );
}

#[test]
fn max_hosts_bounds_the_names_and_half_of_it_those_that_never_called() {
    let hub = TestStore::new();
    let apply = |op: Op| {
        let mut group = at(hub.now, vec![op]);
        group.limits.hosts = 4;
        hub.store.apply(&group).unwrap().remove(0)
    };
    let sends_to = |n: u32, host: &str| match apply(post(&[&format!("{n} a {host}")])) {
        Outcome::Posted { results, .. } => results[0].status,
        other => panic!("{other:?}"),
    };
    let put = |host: &str| apply(Op::PutHost { host: host.into() });
    assert_eq!(sends_to(1, "b"), Status::Queued);
    assert_eq!(sends_to(2, "c"), Status::Queued);
    assert_eq!(sends_to(3, "d"), Status::Rejected);
    assert_eq!(put("d"), Outcome::Done);
    assert_eq!(put("e"), Outcome::Done);
    assert_eq!(put("f"), Outcome::TooManyHosts);
    assert_eq!(sends_to(4, "e"), Status::Queued);
    assert_eq!(apply(Op::DeleteHost { host: "c".into() }), Outcome::Done);
    assert_eq!(put("f"), Outcome::Done);
}
