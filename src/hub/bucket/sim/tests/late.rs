//! Operations whose hub slept while they waited for their group.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use uuid::Uuid;

use super::LIMITS;
use super::one_bucket::Fixture;
use crate::config::Reserve;
use crate::hub::bucket::start::OpenedView;
use crate::hub::commit::Committer;
use crate::hub::commit_log::LONGEST_WAIT_MILLIS;
use crate::hub::store::ops::{Incoming, Op, Outcome, digest};

fn submit(committer: &Committer, id: u128) -> Receiver<Outcome> {
    let id = Uuid::from_u128(id);
    let json = format!(r#"{{"id":"{id}","type":"x"}}"#);
    let message = Incoming {
        id,
        source: "one".into(),
        target: None,
        ttl: None,
        digest: digest(&json),
        json,
    };
    let (sender, outcome) = bounded(1);
    let answer = Box::new(move |out| drop(sender.send(out)));
    committer.submit(Op::Post(vec![message]), None, answer);
    outcome
}

#[test]
fn an_operation_that_waited_too_long_is_refused() {
    let world = Fixture::new();
    let OpenedView { store, log, .. } = world.begin("one");
    let (committer, mut work) = Committer::new(
        Arc::clone(&store),
        Box::new(log),
        Arc::default(),
        LIMITS,
        Reserve::default(),
    );
    let late = submit(&committer, 1);
    let longest = Duration::from_millis(LONGEST_WAIT_MILLIS);
    world.objects.wait(longest - Duration::from_secs(1));
    let in_time = submit(&committer, 2);
    world.objects.wait(Duration::from_secs(2));
    work.turn();
    assert_eq!(late.try_recv(), Ok(Outcome::Busy));
    assert!(matches!(in_time.try_recv(), Ok(Outcome::Posted { .. })));
    assert_eq!(store.counters().unwrap().seq, 1);
}
