//! How often the hub syncs, as the system sees it: a batch of files shares its syncs, and no file is named before its bytes
//! are durable.

use mesync::internals::wire::files::{BatchAnswer, Hash};
use serde_json::json;

use crate::support::files::{Hub, noise};
use crate::support::inject;

/// Too long for the tables, so each file is a chunk file.
const FILE_BYTES: usize = 30_000;
const FILES_PER_BATCH: usize = 40;

fn line_and_bytes(n: usize) -> Vec<u8> {
    let bytes = noise(100 + n as u64, FILE_BYTES);
    let line = json!({
        "path": "d", "name": n.to_string(), "size": bytes.len(),
        "checksum_sha256": Hash::of(&bytes).to_string(),
    });
    [format!("{line}\n").as_bytes(), &bytes].concat()
}

#[test]
fn a_batch_of_files_shares_its_syncs() {
    if !inject::is_available() {
        return;
    }
    let hub = Hub::start();
    let body: Vec<u8> = (0..FILES_PER_BATCH).flat_map(line_and_bytes).collect();
    let trace = hub.world.dir.path().join("trace");
    let calls = "fsync,fdatasync,syncfs,?rename,?renameat,renameat2,?link,linkat";
    let recording = inject::record(hub.world.hub_pid(), calls, &trace);
    let answer = hub.ask("POST", "/api/files/batch", "", &body).is(200, "");
    drop(recording);
    let results = serde_json::from_slice::<BatchAnswer>(&answer.body)
        .unwrap()
        .results;
    assert!(results.iter().all(|r| r.status == 201), "{results:?}");

    let text = std::fs::read_to_string(trace).unwrap();
    let place = |line: &&str| {
        ["/staging>", "/chunks>", "/chunks/", "/hub.redb>"]
            .into_iter()
            .find(|place| line.contains(place))
    };
    let mut places: Vec<&str> = text.lines().filter_map(|line| place(&line)).collect();
    let renames = places.iter().filter(|place| **place == "/chunks/").count();
    places.dedup();
    // a sync of all bytes, a rename for each file, a sync of their directories, a sync of the tables
    assert_eq!(
        (places.as_slice(), renames),
        (
            &["/staging>", "/chunks/", "/chunks>", "/hub.redb>"][..],
            FILES_PER_BATCH
        ),
        "{text}"
    );
}
