//! How long changes take, and how many requests they cost, with many hubs at once: the real log and store on virtual time, in a
//! bucket whose requests take as long as those of a store in the same region.
//!
//! It finds no fault: it prints a table. Run it with `--ignored --nocapture fleet`.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use uuid::Uuid;

use super::schedule::{Pace, Schedule, ThreadId};
use super::{BEGIN, CLUSTER, EPOCH, LIMITS, scratch};
use crate::hub::bucket::chunks::ChunkObjects;
use crate::hub::bucket::clock::StoreClock;
use crate::hub::bucket::objects::{
    ListedObject, Object, ObjectResult, ObjectStore, PutIf, PutOutcome, Response,
};
use crate::hub::bucket::shared_log::SharedLog;
use crate::hub::bucket::{Description, start};
use crate::hub::commit_log::Log;
use crate::hub::store::ops::shared::FORMAT;
use crate::hub::store::ops::{Group, Op};

/// Milliseconds of a request on average; each takes half of that to one and a half.
const PUT_MILLIS: u64 = 20;
const GET_MILLIS: u64 = 10;
/// Milliseconds in which a peer is told.
const TELL_MILLIS: u64 = 2;
/// Virtual seconds that are measured.
const SECONDS: u64 = 30;
const CLIENTS: u64 = 10_000;

#[derive(Default)]
struct TimedBucket {
    objects: Mutex<BTreeMap<String, (Vec<u8>, u64)>>,
    puts: AtomicU64,
    lost: AtomicU64,
    gets: AtomicU64,
}

struct TimedLink {
    bucket: Arc<TimedBucket>,
    schedule: Arc<Schedule>,
    thread: ThreadId,
}

impl TimedLink {
    /// Half of the time passes before the request takes effect.
    fn timed<T>(&self, millis: u64, act: impl FnOnce(&TimedBucket) -> T) -> ObjectResult<T> {
        let pass = || {
            let time = millis / 4 + self.schedule.below(millis / 2 + 1);
            self.schedule.pass(self.thread, time);
        };
        pass();
        let value = act(&self.bucket);
        let date = self.schedule.now() / 1000 * 1000;
        pass();
        Ok(Response { value, date })
    }
}

impl ObjectStore for TimedLink {
    fn put(&self, name: &str, bytes: &[u8], only_if: PutIf) -> ObjectResult<PutOutcome> {
        self.timed(PUT_MILLIS, |bucket| {
            let mut objects = bucket.objects.lock().unwrap();
            bucket.puts.fetch_add(1, Relaxed);
            if only_if == PutIf::Absent && objects.contains_key(name) {
                bucket.lost.fetch_add(1, Relaxed);
                return PutOutcome::Failed;
            }
            objects.insert(name.into(), (bytes.to_vec(), self.schedule.now()));
            PutOutcome::Done
        })
    }

    fn get(&self, name: &str) -> ObjectResult<Option<Object>> {
        self.timed(GET_MILLIS, |bucket| {
            bucket.gets.fetch_add(1, Relaxed);
            let objects = bucket.objects.lock().unwrap();
            objects.get(name).map(|(bytes, at)| Object {
                bytes: bytes.clone(),
                modified: at / 1000 * 1000,
            })
        })
    }

    fn delete(&self, name: &str) -> ObjectResult<()> {
        self.timed(PUT_MILLIS, |bucket| {
            bucket.objects.lock().unwrap().remove(name);
        })
    }

    fn list(&self, prefix: &str, after: &str) -> ObjectResult<Vec<ListedObject>> {
        self.timed(GET_MILLIS, |bucket| {
            let objects = bucket.objects.lock().unwrap();
            let rows = objects.iter().filter(|(name, _)| name.starts_with(prefix));
            rows.filter(|(name, _)| name.as_str() > after)
                .map(|(name, (bytes, at))| ListedObject {
                    name: name.clone(),
                    size: bytes.len() as u64,
                    modified: at / 1000 * 1000,
                })
                .collect()
        })
    }

    fn monotonic(&self) -> u64 {
        self.schedule.monotonic(0)
    }

    fn wait(&self, time: Duration) {
        self.schedule.pass(self.thread, time.as_millis() as u64);
    }

    fn random(&self) -> u64 {
        self.schedule.below(u64::MAX)
    }
}

/// A hub: its waiting changes with the times when they came, and when a peer has told it to look.
#[derive(Default)]
struct TimedHub {
    waiting: Mutex<VecDeque<(u64, Op)>>,
    told_at: AtomicU64,
    /// Milliseconds that each change took.
    took: Mutex<Vec<u64>>,
}

fn percentile(sorted: &[u64], part: usize) -> u64 {
    sorted[(sorted.len() - 1) * part / 100]
}

fn measure(hubs: usize, changes_a_second: u64, window: u64) {
    let schedule = Arc::new(Schedule::new(1, 1, BEGIN));
    schedule.set_pace(Pace::Exact);
    let bucket = Arc::new(TimedBucket::default());
    let link = |thread| TimedLink {
        bucket: Arc::clone(&bucket),
        schedule: Arc::clone(&schedule),
        thread,
    };
    let tables = scratch();
    start::create_empty(&link(0), tables.path(), 1 << 20, CLUSTER, EPOCH).unwrap();
    let all: Arc<Vec<TimedHub>> = Arc::new((0..hubs).map(|_| TimedHub::default()).collect());
    let ends = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..hubs {
            let thread = schedule.thread(0);
            let (link, all, ends, schedule) = (link(thread), &all, &ends, &schedule);
            scope.spawn(move || {
                schedule.enter(thread);
                run(number, link, window, all, ends);
                schedule.leave(thread);
            });
        }
        // the hubs start
        schedule.pass(0, 2000);
        let before = counts(&bucket);
        let entries = log_entries(&bucket);
        for _ in 0..SECONDS * changes_a_second {
            // each client makes its changes at times of its own
            schedule.pass(0, schedule.below(2_000 / changes_a_second + 1));
            let client = schedule.below(CLIENTS);
            let hub = &all[client as usize % hubs];
            let host = format!("client-{client}");
            let change = (schedule.now(), Op::PutHost { host });
            hub.waiting.lock().unwrap().push_back(change);
        }
        schedule.pass(0, 20_000);
        ends.store(true, Relaxed);
        let after = counts(&bucket);
        let mut took: Vec<u64> = Vec::new();
        let mut worst = 0;
        for hub in all.iter() {
            let mut own = std::mem::take(&mut *hub.took.lock().unwrap());
            own.sort_unstable();
            worst = worst.max(percentile(&own, 99));
            took.extend(own);
        }
        took.sort_unstable();
        assert_eq!(
            took.len() as u64,
            SECONDS * changes_a_second,
            "all were committed"
        );
        let per_second = |n: u64| n as f64 / SECONDS as f64;
        let puts = after[0] - before[0];
        println!(
            "{hubs:>4} {changes_a_second:>9} {window:>6}   {:>5} {:>5} {worst:>9}   {:>7.1} {:>6.1} {:>5.0} % {:>6.1}",
            percentile(&took, 50),
            percentile(&took, 99),
            per_second(log_entries(&bucket) - entries),
            per_second(puts),
            (after[1] - before[1]) as f64 * 100.0 / puts as f64,
            per_second(after[2] - before[2]),
        );
        // until the hubs have ended
        schedule.pass(0, 10_000);
    });
}

fn counts(bucket: &TimedBucket) -> [u64; 3] {
    [&bucket.puts, &bucket.lost, &bucket.gets].map(|count| count.load(Relaxed))
}

fn log_entries(bucket: &TimedBucket) -> u64 {
    let objects = bucket.objects.lock().unwrap();
    objects
        .keys()
        .filter(|name| name.starts_with("log/"))
        .count() as u64
}

/// The committer in a few lines.
fn run(number: usize, link: TimedLink, window: u64, all: &Arc<Vec<TimedHub>>, ends: &AtomicBool) {
    let (schedule, thread) = (Arc::clone(&link.schedule), link.thread);
    let objects: Arc<dyn ObjectStore> = Arc::new(link);
    let dir = scratch();
    let description = Description {
        format: FORMAT,
        cluster: CLUSTER,
        epoch: EPOCH,
    };
    let store = start::open_view(objects.as_ref(), &description, dir.path(), 1 << 20, 0);
    let store = Arc::new(store.unwrap());
    let clock = Arc::new(StoreClock::new(Arc::clone(&objects)));
    let chunks = Arc::new(ChunkObjects::new(Arc::clone(&objects), Arc::clone(&clock)));
    let (id, poll) = (Uuid::from_u128(number as u128), Duration::from_secs(2));
    let window = Duration::from_millis(window);
    let mut log = SharedLog::new(objects, store, clock, chunks, id, window, poll).unwrap();
    let (peers, at) = (Arc::clone(all), Arc::clone(&schedule));
    log.on_written = Box::new(move || {
        let told = at.now() + TELL_MILLIS;
        let others = peers.iter().enumerate().filter(|(n, _)| *n != number);
        others.for_each(|(_, peer)| peer.told_at.store(told, Relaxed));
    });
    let me = &all[number];
    let mut followed = 0;
    while !ends.load(Relaxed) {
        schedule.pass(thread, 1);
        if me.waiting.lock().unwrap().is_empty() {
            let told = me.told_at.load(Relaxed);
            let is_told = told > followed && told <= schedule.now();
            if is_told || log.next_poll().is_some_and(|left| left.is_zero()) {
                followed = schedule.now();
                log.follow().unwrap();
            }
            continue;
        }
        log.await_turn();
        let waiting: Vec<_> = me.waiting.lock().unwrap().drain(..).collect();
        let ops = waiting.iter().map(|(_, op)| op.clone()).collect();
        let group = Group::for_shared_log(LIMITS, ops);
        log.commit(group).expect("a store that responds");
        let now = schedule.now();
        let took = waiting.iter().map(|(since, _)| now - since);
        me.took.lock().unwrap().extend(took);
    }
}

#[test]
#[ignore = "prints figures: some minutes"]
fn fleet() {
    println!(
        "{CLIENTS} clients; PUT {PUT_MILLIS} ms, GET {GET_MILLIS} ms; milliseconds from a change to its answer"
    );
    println!(
        "hubs changes/s window     p50   p99 worst p99   entries   PUTs   lost   GETs (a second)"
    );
    for (hubs, changes, window) in [
        (2, 100, 50),
        (3, 100, 50),
        (10, 100, 0),
        (10, 100, 50),
        (10, 100, 200),
        (10, 1000, 50),
    ] {
        measure(hubs, changes, window);
    }
}
