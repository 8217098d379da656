//! Several hubs on one bucket, simulated: the real log, store, snapshots and janitor, driven through lost responses, requests
//! that take effect much later, conflicts, crashes that lose what was not synced, lost disks and machines that sleep for days.
//!
//! `MESYNC_SIM_SEEDS` histories are run from `MESYNC_SIM_FIRST`; a failure prints its seed.

mod bucket;
mod client;
mod fleet;
mod hub;
mod replay;
mod schedule;
mod tests;
mod witness;

use std::sync::Arc;

use tempfile::TempDir;
use uuid::Uuid;

use super::{Description, start};
use crate::hub::store::ops::Limits;
use crate::hub::store::ops::files::FileLimits;
use crate::hub::store::ops::shared::FORMAT;
use bucket::{Link, SimBucket};
use client::Client;
use hub::SimHub;
use schedule::{Pace, Schedule};
use witness::Witness;

const DAY: u64 = 86_400_000;
const HUBS: usize = 3;
const CLIENTS: usize = 3;
/// Different contents of files.
const CONTENTS: u64 = 6;
const LIMITS: Limits = Limits {
    // longer than a history
    ttl: 10_000 * DAY,
    queue_messages: 100,
    queue_bytes: 2_000_000,
    hosts: 10_000,
    space: 4_000_000,
    files: FileLimits {
        version_ttl: 2 * DAY,
    },
};
const CLUSTER: Uuid = Uuid::from_u128(0xc);
const EPOCH: Uuid = Uuid::from_u128(0xe);
/// When a history begins.
const BEGIN: u64 = 20_000 * DAY;

/// A directory in memory if there is one: a history syncs often.
fn scratch() -> TempDir {
    let memory = std::path::Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

/// Runs one history; returns what went wrong.
fn history(seed: u64, steps: u64) -> Vec<String> {
    // machines: 0 the world, 1 … the hubs, then the clients
    let schedule = Arc::new(Schedule::new(seed, 1 + HUBS + CLIENTS, BEGIN));
    let bucket = Arc::new(SimBucket::new(
        Arc::clone(&schedule),
        Witness::new(CLUSTER, EPOCH),
    ));
    let tables = scratch();
    let description = Description {
        format: FORMAT,
        cluster: CLUSTER,
        epoch: EPOCH,
    };
    let link = Link {
        bucket: Arc::clone(&bucket),
        machine: 0,
        thread: 0,
    };
    start::create_empty(&link, tables.path(), 1 << 20, CLUSTER, EPOCH).unwrap();
    let hubs: Vec<Arc<SimHub>> = (1..=HUBS)
        .map(|machine| {
            Arc::new(SimHub::new(
                machine,
                Arc::clone(&bucket),
                description.clone(),
                LIMITS,
            ))
        })
        .collect();
    let failed = || !bucket.witness.lock().unwrap().faults.is_empty();
    std::thread::scope(|scope| {
        bucket.set_faults(true);
        hubs.iter().for_each(|hub| hub.start(scope));
        let clients: Vec<Arc<Client>> = (0..CLIENTS)
            .map(|number| {
                Arc::new(Client::new(
                    number,
                    1 + HUBS + number,
                    Arc::clone(&schedule),
                    hubs.clone(),
                ))
            })
            .collect();
        clients.iter().for_each(|client| client.start(scope));
        for _ in 0..steps {
            if failed() {
                break;
            }
            schedule.pass(0, 20);
            let hub = &hubs[schedule.below(HUBS as u64) as usize];
            match schedule.below(400) {
                0 => {
                    hub.crash(0);
                    if schedule.one_in(4) {
                        hub.lose_disk();
                    }
                    hub.start(scope);
                }
                1 => schedule.sleep(hub.machine, schedule.below(8 * DAY)),
                2 => schedule.sleep(hub.machine, schedule.below(20_000)),
                _ => {}
            }
        }
        // everything works from now on, and must agree in the end
        schedule.set_pace(Pace::Unsteady);
        bucket.set_faults(false);
        (1..=HUBS).for_each(|machine| schedule.wake(machine));
        let n = || bucket.witness.lock().unwrap().n;
        let agree = |hub: &Arc<SimHub>| {
            hub.running()
                .is_some_and(|running| running.store.position().unwrap().n == n())
        };
        let mut left = 40_000;
        // twice, because a client may have asked a hub that was behind
        for _ in 0..2 {
            clients.iter().for_each(|client| client.rest());
            while left > 0
                && !failed()
                && !(hubs.iter().all(agree) && clients.iter().all(|client| client.is_done()))
            {
                schedule.pass(0, 20);
                left -= 1;
            }
        }
        if left == 0 && !failed() {
            let at: Vec<_> = hubs
                .iter()
                .map(|hub| {
                    hub.running()
                        .map(|running| running.store.position().unwrap().n)
                })
                .collect();
            let done: Vec<_> = clients.iter().map(|client| client.is_done()).collect();
            let what = format!(
                "hubs are at {at:?} instead of {}, clients done: {done:?}",
                n()
            );
            bucket.witness.lock().unwrap().fault(what);
        }
        let mut witness = bucket.witness.lock().unwrap();
        for (hub, running) in hubs.iter().filter_map(|hub| Some((hub, hub.running()?))) {
            if running.store.position().unwrap().n == witness.n {
                witness.compare(
                    hub.machine,
                    running.store.position().unwrap().n,
                    &running.store.dump(),
                );
            }
        }
        clients.iter().for_each(|client| client.check(&mut witness));
        for (id, target) in clients.iter().flat_map(|client| client.posted()) {
            if witness.faults.is_empty() && !clients[target].has_taken(id) {
                witness.fault(format!("message {id} has not arrived"));
            }
        }
        drop(witness);
        clients.iter().for_each(|client| client.end(0));
        hubs.iter().for_each(|hub| hub.crash(0));
    });
    std::mem::take(&mut bucket.witness.lock().unwrap().faults)
}
