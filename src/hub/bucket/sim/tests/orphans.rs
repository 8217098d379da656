//! Chunks that no entry has named, and their removal by a hub that is behind.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::hub::content;
use super::one_bucket::Fixture;
use super::replay::put;
use super::{DAY, LIMITS};
use crate::hub::bucket::janitor::{Janitor, JanitorTimes, SNAPSHOT_ENTRIES};
use crate::hub::bucket::objects::ObjectStore;
use crate::hub::bucket::start::OpenedView;
use crate::hub::commit_log::Log;
use crate::hub::store::chunk_name::ChunkName;
use crate::hub::store::ops::{Group, Op};
use crate::wire::files::Hash;

/// Chunks in the bucket.
fn chunks(objects: &dyn ObjectStore) -> usize {
    objects.list(ChunkName::PREFIX, "").unwrap().value.len()
}

#[test]
fn a_hub_that_is_behind_removes_no_chunk_that_an_entry_names() {
    let world = Fixture::new();
    let OpenedView { store, log, clock } = world.begin("behind");
    let mut other = world.begin("other");
    world.write(&mut other, 0..1);
    // no entry will name this one
    let mut intake = other.store.intake().unwrap();
    intake.write(&content(1)).unwrap();
    let there = intake.finish().unwrap().bytes.remove(0);
    let op = put(1, "f1", &content(1), there, None);
    other.log.uploader().unwrap().upload(&op).unwrap();
    assert_eq!(chunks(world.objects.as_ref()), 2);

    world.objects.wait(Duration::from_millis(8 * DAY));
    let hash = Hash::of(&content(0));
    assert_eq!(
        store.missing_chunks(&[hash]).unwrap(),
        [hash],
        "it is behind"
    );
    let janitor = Janitor {
        objects: Arc::clone(&world.objects),
        clock,
        store: Arc::clone(&store),
        data_dir: world.settings("behind").data_dir,
        snapshot_at: 0,
        snapshot_entries: SNAPSHOT_ENTRIES,
        times: JanitorTimes::default(),
    };
    let log = Mutex::new(log);
    let submit = |op: Op| {
        let group = Group::for_shared_log(LIMITS, vec![op]);
        let committed = log.lock().unwrap().commit(group).unwrap();
        committed.outcomes.into_iter().next()
    };
    janitor.remove_orphans(&submit).unwrap();
    assert_eq!(
        chunks(world.objects.as_ref()),
        1,
        "only the orphan is removed"
    );
    assert!(store.missing_chunks(&[hash]).unwrap().is_empty());
}
