//! Buckets that were set back, emptied or cut, and their recovery: over the simulated bucket without faults, but broken off
//! at each of its requests.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use uuid::Uuid;

use super::hub::content;
use super::one_bucket::{Fixture, Tapped, commit};
use super::replay::post;
use super::{CLUSTER, EPOCH};
use crate::error::{Error, Kind, Result};
use crate::hub::bucket::janitor::{Janitor, JanitorTimes};
use crate::hub::bucket::objects::{ObjectFault, ObjectStore, PutIf};
use crate::hub::bucket::recovery::{RecoverFrom, RecoveredHub, recover_in};
use crate::hub::bucket::start::{OpenedView, create_empty};
use crate::hub::bucket::watch::BucketWatch;
use crate::hub::bucket::{DESCRIPTION, entry_name, snapshot};
use crate::hub::commit_log::{Log, LogFault};
use crate::wire::files::Hash;

/// The bucket as a program reaches it that is killed after some requests.
fn killed_after(requests: u64, inner: &Arc<dyn ObjectStore>) -> Tapped {
    let left = AtomicU64::new(requests);
    Tapped {
        inner: Arc::clone(inner),
        on_request: Box::new(move |_| {
            let more = left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
            more.map(drop)
                .map_err(|_| ObjectFault::Refused(Error::new(Kind::Failed, "killed")))
        }),
        on_wait: Box::new(|| {}),
    }
}

impl Fixture {
    fn recover(&self, hub: &str, from: RecoverFrom) -> Result<RecoveredHub> {
        recover_in(&self.objects, &self.settings(hub), from, 0)
    }

    /// Recovers at once; then from the same beginning with a program that is killed after one request, after two, and so on, and
    /// run again. All must give the same hub.
    fn recover_often(&self, hub: &str, from: RecoverFrom) -> RecoveredHub {
        let beginning = self.bucket.copy();
        let state = |name: &str| {
            let view = self.begin(name);
            (view.store.counters().unwrap().files, readable(&view, 0..6))
        };
        let recovered = self.recover(hub, from).unwrap();
        let expected = state("at-once");
        for requests in 1.. {
            self.bucket.set_back(&beginning);
            let breaking: Arc<dyn ObjectStore> = Arc::new(killed_after(requests, &self.objects));
            match recover_in(&breaking, &self.settings(hub), from, 0) {
                Ok(again) => {
                    assert_eq!(again, recovered);
                    break;
                }
                Err(e) => assert!(e.to_string().contains("killed"), "{e}"),
            }
            self.recover(hub, from).unwrap();
            assert_eq!(state(&format!("after-{requests}")), expected);
        }
        recovered
    }
}

/// Contents that can be read there.
fn readable(view: &OpenedView, numbers: std::ops::Range<u64>) -> Vec<u64> {
    let is_there = |number: &u64| {
        let bytes = content(*number);
        let mut read = Vec::new();
        let reader = view.store.chunk(Hash::of(&bytes)).unwrap();
        reader.is_some_and(|mut reader| reader.read_to_end(&mut read).is_ok()) && read == bytes
    };
    numbers.filter(is_there).collect()
}

fn refused(recovered: Result<RecoveredHub>, kind: Kind, words: &str) {
    let e = recovered.unwrap_err();
    assert!(e.kind == kind && e.to_string().contains(words), "{e}");
}

fn remove_chunks(dir: &Path) {
    std::fs::remove_dir_all(dir.join("chunks")).unwrap();
}

#[test]
fn a_bucket_that_was_set_back_continues_with_the_newest_view() {
    let world = Fixture::new();
    let mut one = world.begin("one");
    world.write(&mut one, 0..3);
    let mut two = world.begin("two");
    two.log.follow().unwrap();
    drop(two);
    let earlier = world.bucket.copy();
    world.write(&mut one, 3..5);
    commit(&mut one.log, post(9, Some("web")));
    let before = one.store.counters().unwrap();
    let objects = Arc::clone(&world.objects);
    let mut watch = BucketWatch::new(objects, Arc::clone(&one.store)).unwrap();
    world.bucket.set_back(&earlier);
    // a hub that runs ends
    world.objects.wait(Duration::from_secs(61));
    let seen = watch.check(&BTreeMap::new());
    assert!(
        matches!(&seen, Err(LogFault::Final(e)) if e.kind == Kind::Damaged),
        "{seen:?}"
    );
    drop((one, watch));
    let e = world.try_begin("one").err().unwrap();
    assert!(
        e.kind == Kind::Damaged && e.to_string().contains("set back"),
        "{e}"
    );

    let recovered = world.recover_often("one", RecoverFrom::OpenedView);
    assert_eq!((recovered.files, recovered.lost_chunks), (5, 0));
    assert_eq!(recovered.dropped_entries, 0);
    // the chunks come from the bucket
    remove_chunks(&world.settings("one").data_dir);
    let mut one = world.begin("one");
    assert_eq!(readable(&one, 0..6), [0, 1, 2, 3, 4]);
    let after = one.store.counters().unwrap();
    assert_eq!(
        (after.files, after.messages),
        (before.files, before.messages)
    );
    assert!(after.rev > before.rev && one.store.epoch() != EPOCH);
    // the hub of another machine begins with the snapshot, and both continue
    let mut two = world.begin("two");
    world.write(&mut two, 5..6);
    one.log.follow().unwrap();
    assert_eq!(one.store.dump(), two.store.dump());
    assert_eq!(readable(&one, 0..6), [0, 1, 2, 3, 4, 5]);
    drop((one, two));
    refused(
        world.recover("one", RecoverFrom::OpenedView),
        Kind::Settings,
        "it has all that the view",
    );
}

#[test]
fn an_emptied_bucket_gets_what_the_view_and_its_chunks_have() {
    let world = Fixture::new();
    let mut one = world.begin("one");
    world.write(&mut one, 0..4);
    drop(one);
    world.bucket.set_back(&BTreeMap::new());
    std::fs::remove_file(world.chunk_path("one", 1)).unwrap();
    std::fs::write(world.chunk_path("one", 2), "damaged").unwrap();
    let data = world.settings("one").data_dir;
    std::fs::write(data.join("keys.toml"), "of the hub").unwrap();

    let recovered = world.recover_often("one", RecoverFrom::OpenedView);
    assert_eq!((recovered.chunks, recovered.lost_chunks), (2, 2));
    assert_eq!(
        recovered.lost,
        ["docs/f1, revision 2", "docs/f2, revision 3"]
    );
    let two = world.begin("two");
    assert_eq!(two.store.counters().unwrap().files, 4);
    assert_eq!(readable(&two, 0..4), [0, 3]);
    // clients are asked for the others
    let asked = |number| two.store.is_wanted(Hash::of(&content(number)));
    assert_eq!((0..4).filter(|n| asked(*n)).collect::<Vec<_>>(), [1, 2]);
    let keys = world.objects.get(&format!("files/keys.toml/{:020}", 1));
    assert_eq!(keys.unwrap().value.unwrap().bytes, b"of the hub");
    drop(two);
    // run once more, as after a kill just before its end
    assert!(
        world
            .recover("one", RecoverFrom::OpenedView)
            .unwrap()
            .already
    );
}

#[test]
fn entries_before_a_gap_are_kept_and_those_after_it_are_not() {
    let world = Fixture::new();
    let mut one = world.begin("one");
    world.write(&mut one, 0..1);
    drop(one);
    let mut two = world.begin("two");
    world.write(&mut two, 1..4);
    drop(two);
    world.objects.delete(&entry_name(3)).unwrap();
    let recovered = world.recover_often("one", RecoverFrom::OpenedView);
    assert_eq!((recovered.files, recovered.dropped_entries), (2, 1));
    assert_eq!(readable(&world.begin("one"), 0..4), [0, 1]);
}

#[test]
fn without_a_view_the_bucket_continues_with_what_it_has() {
    let world = Fixture::new();
    let mut one = world.begin("one");
    world.write(&mut one, 0..2);
    let earlier = world.bucket.copy();
    world.write(&mut one, 2..3);
    drop(one);
    world.bucket.set_back(&earlier);
    refused(
        world.recover("none", RecoverFrom::OpenedView),
        Kind::Settings,
        "there is no view",
    );
    refused(
        world.recover("one", RecoverFrom::Bucket),
        Kind::Settings,
        "without the view",
    );
    let recovered = world.recover_often("none", RecoverFrom::Bucket);
    assert_eq!(recovered.files, 2);
    // a view of what was lost is replaced
    let one = world.begin("one");
    assert_eq!(readable(&one, 0..3), [0, 1]);
    assert!(one.store.epoch() != EPOCH);
    world.bucket.set_back(&BTreeMap::new());
    refused(
        world.recover("none", RecoverFrom::Bucket),
        Kind::Settings,
        "it has no hub",
    );
}

#[test]
fn a_recovery_is_refused_while_a_hub_runs_or_if_the_bucket_has_another_one() {
    let world = Fixture::new();
    let mut one = world.begin("one");
    world.write(&mut one, 0..1);
    drop(one);
    let two = world.begin("two");
    world.objects.delete(&entry_name(1)).unwrap();
    let watch = || BucketWatch::new(Arc::clone(&world.objects), Arc::clone(&two.store)).unwrap();
    let (running, mut late) = (Mutex::new(watch()), watch());
    let beside: Arc<dyn ObjectStore> = Arc::new(Tapped {
        inner: Arc::clone(&world.objects),
        on_request: Box::new(|_| Ok(())),
        on_wait: Box::new(move || {
            let versions = BTreeMap::from([("recovering".to_string(), 1)]);
            running.lock().unwrap().check(&versions).unwrap();
        }),
    });
    refused(
        recover_in(&beside, &world.settings("one"), RecoverFrom::OpenedView, 0),
        Kind::Busy,
        "a hub of it runs on",
    );
    // a hub that has not seen the question begins with the new view as soon as it looks
    world.recover("one", RecoverFrom::OpenedView).unwrap();
    let seen = late.check(&BTreeMap::from([("recovered".to_string(), 1)]));
    assert!(matches!(seen, Err(LogFault::StartAgain(_))), "{seen:?}");

    let stranger = Uuid::from_u128(7);
    world.bucket.set_back(&BTreeMap::new());
    world.objects.delete(DESCRIPTION).unwrap();
    let objects = world.objects.as_ref();
    create_empty(objects, world.dirs.path(), 1 << 20, stranger, stranger).unwrap();
    refused(
        world.recover("one", RecoverFrom::OpenedView),
        Kind::Settings,
        "the bucket has another hub",
    );
}

#[test]
fn what_a_broken_snapshot_has_left_is_removed_after_a_week() {
    let world = Fixture::new();
    let view = world.begin("one");
    let tables = world.dirs.path().join("tables");
    view.store.copy_view(&tables).unwrap();
    let put = |requests, cluster| {
        snapshot::put(&killed_after(requests, &world.objects), cluster, 5, &tables).is_ok()
    };
    let objects = world.objects.as_ref();
    let names = || {
        let rows = objects.list("snapshots/", "").unwrap().value;
        rows.into_iter().map(|row| row.name).collect::<Vec<_>>()
    };
    let of_the_bucket = names();
    assert!(!put(1, CLUSTER), "its index is missing");
    let broken = names();
    assert!(broken.len() > of_the_bucket.len());
    // one of a bucket that lost the race, and a whole one
    assert!(put(9, Uuid::from_u128(7)) && put(9, CLUSTER));
    let whole = snapshot::list_whole(objects, CLUSTER).unwrap();
    assert_eq!(whole.iter().map(|s| s.n).collect::<Vec<_>>(), [0, 5]);
    let janitor = Janitor {
        objects: Arc::clone(&world.objects),
        clock: Arc::clone(&view.clock),
        store: Arc::clone(&view.store),
        data_dir: world.dirs.path().into(),
        snapshot_at: 0,
        snapshot_entries: 6,
        times: JanitorTimes::default(),
    };
    let days_later = |days: u64| {
        world.objects.wait(Duration::from_secs(days * 86_400));
        janitor.remove_leftovers().unwrap();
        names()
    };
    let all = names();
    assert_eq!(days_later(6), all);
    let left = days_later(2);
    let expected: Vec<String> = (all.into_iter())
        .filter(|name| whole.iter().any(|s| name.starts_with(&s.name)))
        .collect();
    assert_eq!(left, expected);
    // a hub that slept writes its index now: nothing begins with this snapshot, nor does the floor rise because of it
    let (part, index) = (&broken.last().unwrap(), whole[1].name.clone() + "/index");
    let late = part.rsplit_once('/').unwrap().0.to_string() + "/index";
    let index = objects.get(&index).unwrap().value.unwrap().bytes;
    objects.put(&late, &index, PutIf::Always).unwrap();
    assert_eq!(snapshot::list_whole(objects, CLUSTER).unwrap(), whole);
    assert_eq!(days_later(8), expected);
}
