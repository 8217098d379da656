//! The costs of an idle hub: a day of the real committer, log and janitor on virtual time.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crossbeam_channel::bounded;
use uuid::Uuid;

use super::one_bucket::{Fixture, RequestKind, Tapped};
use super::{DAY, LIMITS};
use crate::config::Reserve;
use crate::hub::bucket::janitor::{Janitor, JanitorTimes, SNAPSHOT_ENTRIES};
use crate::hub::bucket::objects::ObjectStore;
use crate::hub::bucket::shared_files::{LOOK_INTERVAL, SharedFiles};
use crate::hub::bucket::start::{OpenBucket, OpenedView, describe};
use crate::hub::bucket::watch::BucketWatch;
use crate::hub::commit::{Committer, Work};
use crate::hub::store::Store;
use crate::hub::store::messages::read::{PullRequest, Pulled};
use crate::hub::store::ops::{Op, Outcome};

/// Objects that an idle hub puts in a day at most, as mesync(7) says.
const MAX_PUTS_A_DAY: u64 = 48;
const MACHINES: u64 = 20;
/// Milliseconds between two pulls of a machine.
const PULL_INTERVAL: u64 = 60_000;

fn submit(committer: &Committer, work: &RefCell<Work>, op: Op) -> Option<Outcome> {
    let (sender, outcome) = bounded(1);
    committer.submit(op, None, Box::new(move |out| drop(sender.send(out))));
    work.borrow_mut().turn();
    outcome.try_recv().ok()
}

/// One machine asks for messages, as it does while nothing happens.
fn pull(store: &Store, committer: &Committer, work: &RefCell<Work>, machine: u64) {
    let asked = store.pull(&PullRequest {
        host: format!("m{machine}"),
        instance: Some(Uuid::from_u128(u128::from(machine))),
        epoch: None,
        after: None,
        id: None,
        limit: 100,
        now: committer.now(),
        again: false,
    });
    match asked.unwrap() {
        Pulled::Now(_) => {}
        Pulled::Once(op, _) => drop(submit(committer, work, op)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_idle_hub_puts_few_objects_a_day() {
    let world = Fixture::new();
    let counts: Arc<Mutex<BTreeMap<RequestKind, u64>>> = Arc::default();
    let counted = Arc::clone(&counts);
    let objects: Arc<dyn ObjectStore> = Arc::new(Tapped {
        inner: Arc::clone(&world.objects),
        on_request: Box::new(move |kind| {
            *counted.lock().unwrap().entry(kind).or_default() += 1;
            Ok(())
        }),
        on_wait: Box::new(|| {}),
    });
    let bucket = OpenBucket {
        objects: Arc::clone(&objects),
        description: describe(objects.as_ref()).unwrap().unwrap(),
    };
    let settings = crate::config::HubSettings {
        bucket_poll: std::time::Duration::from_secs(2),
        ..world.settings("one")
    };
    let OpenedView { store, log, clock } = bucket.begin(&settings, 0).ok().unwrap();
    let (committer, work) = Committer::new(
        Arc::clone(&store),
        Box::new(log),
        Arc::default(),
        LIMITS,
        Reserve::default(),
    );
    let work = RefCell::new(work);
    let mut watch = BucketWatch::new(Arc::clone(&objects), Arc::clone(&store)).unwrap();
    let files = SharedFiles::new(Arc::clone(&objects), &settings.data_dir);
    let mut janitor = Janitor {
        objects: Arc::clone(&objects),
        clock,
        store: Arc::clone(&store),
        data_dir: settings.data_dir.clone(),
        snapshot_at: 0,
        snapshot_entries: SNAPSHOT_ENTRIES,
        times: JanitorTimes::default(),
    };
    let mut known = BTreeMap::new();
    let (mut polled, mut pulled) = (0, 0);
    let mut run = |time: u64| {
        let until = objects.monotonic() + time;
        while objects.monotonic() < until {
            let pause = work.borrow().pause();
            objects.wait(pause);
            work.borrow_mut().turn();
            let now = objects.monotonic();
            if now >= polled + LOOK_INTERVAL.as_millis() as u64 {
                polled = now;
                watch
                    .check(&files.refresh_all(&mut known).unwrap())
                    .unwrap();
                janitor.turn(&|op| submit(&committer, &work, op));
            }
            if now >= pulled + PULL_INTERVAL {
                pulled = now;
                (0..MACHINES).for_each(|machine| pull(&store, &committer, &work, machine));
            }
        }
    };
    // the machines are registered, and the first horizon is drawn
    run(DAY / 24);
    counts.lock().unwrap().clear();
    run(DAY);
    let counts = counts.lock().unwrap().clone();
    println!("a day of an idle hub with {MACHINES} machines: {counts:?}");
    let of = |kind| counts.get(&kind).copied().unwrap_or(0);
    let puts = of(RequestKind::Put);
    assert!((1..=MAX_PUTS_A_DAY).contains(&puts), "{counts:?}");
    assert!(of(RequestKind::Get) < 50_000, "{counts:?}");
    assert!(of(RequestKind::List) < 11_000, "{counts:?}");
    assert!(!committer.wants_new_start() && committer.fatal().is_none());
}
