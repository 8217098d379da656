//! A storm of uploads and deletes while the hub is killed again and again: what it has acknowledged is there, what it was told
//! when it died is there or is not, and its data directory is whole. A backup taken meanwhile is whole, too.
//!
//! The seed is printed; SEED repeats it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use crate::support::world::{Random, World, wait_for};
use serde_json::Value;
use sha2::{Digest, Sha256};

const WRITERS: u64 = 4;
const NAMES: u64 = 12;

/// The binary that is delivered gets all of it; a debug build, of which `make test` wants to know soon, a part.
fn rounds() -> u64 {
    if std::env::var_os("MESYNC_TEST_BINARY").is_some() {
        50
    } else {
        8
    }
}

/// The hash of the file under a name; `None`: there is none.
type Content = Option<String>;

/// What a writer knows of one of its names.
#[derive(Debug, Clone, Default)]
struct Known {
    id: Option<String>,
    acknowledged: Content,
    /// Sent, and it is unknown whether it was carried out.
    open: Option<Content>,
}

struct Client {
    agent: ureq::Agent,
    url: String,
    key: String,
}

impl Client {
    fn new(url: &str, data: &Path) -> Client {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)));
        Client {
            agent: config.build().new_agent(),
            url: url.into(),
            key: fs::read_to_string(data.join("local.key"))
                .unwrap()
                .trim()
                .into(),
        }
    }

    fn get(&self, path: &str) -> Option<(u16, Vec<u8>)> {
        let mut answer = self
            .agent
            .get(format!("{}{path}", self.url))
            .header("x-api-key", &self.key)
            .call()
            .ok()?;
        let bytes = answer
            .body_mut()
            .with_config()
            .limit(100 << 20)
            .read_to_vec()
            .ok()?;
        Some((answer.status().as_u16(), bytes))
    }

    fn json(&self, path: &str) -> Value {
        let (status, bytes) = self.get(path).unwrap();
        assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&bytes));
        serde_json::from_slice(&bytes).unwrap()
    }

    fn upload(&self, name: &str, bytes: &[u8]) -> Option<(u16, Value)> {
        let boundary = "----storm";
        let part = |name: &str, more: &str| {
            format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"{more}\r\n\r\n")
        };
        let mut body = part(
            "file",
            "; filename=\"x\"\r\nContent-Type: application/octet-stream",
        )
        .into_bytes();
        body.extend_from_slice(bytes);
        body.extend_from_slice(format!("\r\n{}{name}\r\n", part("file_name", "")).as_bytes());
        body.extend_from_slice(part("metadata", "\r\nContent-Type: application/json").as_bytes());
        body.extend_from_slice(format!("{{\"path\":\"storm\"}}\r\n--{boundary}--\r\n").as_bytes());
        let request = self
            .agent
            .put(format!("{}/api/files/upload", self.url))
            .header("x-api-key", &self.key);
        let mut answer = request
            .content_type(format!("multipart/form-data; boundary={boundary}"))
            .send(&body[..])
            .ok()?;
        let text = answer.body_mut().read_to_string().ok()?;
        Some((
            answer.status().as_u16(),
            serde_json::from_str(&text).unwrap_or(Value::Null),
        ))
    }

    fn delete(&self, id: &str) -> Option<u16> {
        let answer = self
            .agent
            .delete(format!("{}/api/files/{id}", self.url))
            .header("x-api-key", &self.key)
            .call()
            .ok()?;
        Some(answer.status().as_u16())
    }
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

fn noise(random: &mut Random) -> Vec<u8> {
    // in the tables, one chunk, several chunks
    let most = [300, 300, 20_000, 200_000, 12 << 20]
        [[0, 1, 2, 3, 3, 2, 1, 0, 2, 1, 0, 3, 2, 1, 0, 4][random.below(16) as usize]];
    let length = 1 + random.below(most) as usize;
    let mut bytes: Vec<u8> = (0..length.div_ceil(8))
        .flat_map(|_| random.below(u64::MAX).to_le_bytes())
        .collect();
    bytes.truncate(length);
    bytes
}

/// One writer, which alone has its names, until it is told to stop or the hub no longer answers.
fn write(
    client: &Client,
    random: &mut Random,
    known: &mut BTreeMap<String, Known>,
    over: &AtomicBool,
    done: &AtomicU64,
) {
    while !over.load(SeqCst) {
        let pick = random.below(known.len() as u64) as usize;
        let (name, state) = known.iter_mut().nth(pick).unwrap();
        assert!(state.open.is_none(), "{name}: settled before");
        match state
            .id
            .clone()
            .filter(|_| state.acknowledged.is_some() && random.below(3) == 0)
        {
            Some(id) => match client.delete(&id) {
                Some(200) => state.acknowledged = None,
                Some(status) => panic!("{name}: delete answered {status}"),
                None => state.open = Some(None),
            },
            None => {
                let bytes = noise(random);
                match client.upload(name, &bytes) {
                    Some((200 | 201, record)) => {
                        assert_eq!(record["checksum_sha256"], hash(&bytes));
                        (state.id, state.acknowledged) =
                            (record["id"].as_str().map(String::from), Some(hash(&bytes)));
                    }
                    Some((status, answer)) => panic!("{name}: upload answered {status} {answer}"),
                    None => state.open = Some(Some(hash(&bytes))),
                }
            }
        }
        if state.open.is_some() {
            return;
        }
        done.fetch_add(1, SeqCst);
    }
}

/// What the hub has under the names of the storm: id and hash.
fn listed(client: &Client) -> BTreeMap<String, (String, String)> {
    let rows = client.json("/api/files?path=storm&limit=1000");
    let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_string();
    rows.as_array()
        .unwrap()
        .iter()
        .map(|row| {
            (
                text(row, "name"),
                (text(row, "id"), text(row, "checksum_sha256")),
            )
        })
        .collect()
}

/// Everything listed has the bytes that its record says.
fn verify(client: &Client) -> usize {
    let listed = listed(client);
    for (name, (id, sum)) in &listed {
        let (status, bytes) = client.get(&format!("/api/files/{id}/download")).unwrap();
        assert_eq!((status, hash(&bytes)), (200, sum.clone()), "{name}");
    }
    listed.len()
}

fn check(world: &World, data: &Path) {
    let out = world
        .hub_command()
        .args(["hub", "check", "--data"])
        .arg(data)
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}\n{}\n{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
}

#[test]
fn acknowledged_changes_survive_kills_in_a_storm() {
    let mut random = Random::seeded("storm");
    let mut world = World::new();
    world.start_hub();
    let names = |w: u64| {
        (0..NAMES)
            .map(move |n| (format!("w{w}-f{n}"), Known::default()))
            .collect::<BTreeMap<_, _>>()
    };
    let mut known: Vec<BTreeMap<String, Known>> = (0..WRITERS).map(names).collect();
    let mut total = 0;
    for round in 0..rounds() {
        let (over, done) = (AtomicBool::new(false), AtomicU64::new(0));
        let until = 1 + random.below(60);
        std::thread::scope(|scope| {
            for known in &mut known {
                let (client, mut random) = (
                    Client::new(&world.url(), &world.hub_dir()),
                    Random(random.below(u64::MAX)),
                );
                let (over, done) = (&over, &done);
                scope.spawn(move || write(&client, &mut random, known, over, done));
            }
            wait_for("the storm rages", &world, || done.load(SeqCst) >= until);
            world.kill_hub();
            over.store(true, SeqCst);
        });
        total += done.load(SeqCst);
        world.start_hub();
        let client = Client::new(&world.url(), &world.hub_dir());
        let listed = listed(&client);
        for (name, state) in known.iter_mut().flatten() {
            let now = listed.get(name).map(|(_, sum)| sum.clone());
            let open = state.open.take();
            assert!(
                now == state.acknowledged || open.as_ref() == Some(&now),
                "round {round}: {name} is {now:?}, not {state:?} or {open:?}"
            );
            (state.acknowledged, state.id) = (
                now,
                listed
                    .get(name)
                    .map(|(id, _)| id.clone())
                    .or(state.id.take()),
            );
        }
    }
    let client = Client::new(&world.url(), &world.hub_dir());
    let files = verify(&client);
    println!(
        "{} rounds, {total} acknowledged changes, {files} files in the end",
        rounds()
    );
    assert_eq!(world.stop_hub(), Some(0), "{}", world.logs());
    check(&world, &world.hub_dir());
}

#[test]
fn a_backup_taken_in_a_storm_is_whole_and_has_an_epoch_of_its_own() {
    let mut random = Random::seeded("backup");
    let mut world = World::new();
    world.start_hub();
    let epoch =
        |client: &Client| client.json("/api/files/changes?after=0&limit=1")["epoch"].clone();
    let (over, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let backup = world.dir.path().join("backup");
    let acknowledged = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|w| {
                let (client, mut random) = (
                    Client::new(&world.url(), &world.hub_dir()),
                    Random(random.below(u64::MAX)),
                );
                let mut known: BTreeMap<String, Known> = (0..NAMES)
                    .map(|n| (format!("w{w}-f{n}"), Known::default()))
                    .collect();
                let (over, done) = (&over, &done);
                scope.spawn(move || write(&client, &mut random, &mut known, over, done))
            })
            .collect();
        wait_for("the storm rages", &world, || done.load(SeqCst) >= 40);
        let before = done.load(SeqCst);
        let out = world
            .hub_command()
            .args(["hub", "backup"])
            .arg(&backup)
            .output()
            .unwrap();
        assert!(out.status.success(), "{out:?}\n{}", world.logs());
        wait_for("the storm goes on", &world, || {
            done.load(SeqCst) > before + 5
        });
        over.store(true, SeqCst);
        writers.into_iter().for_each(|w| w.join().unwrap());
        before
    });
    let client = Client::new(&world.url(), &world.hub_dir());
    let (old, rev) = (
        epoch(&client),
        client.json("/api/files/changes?after=0&limit=1")["rev"]
            .as_u64()
            .unwrap(),
    );
    assert!(acknowledged >= 40 && verify(&client) > 0);
    world.stop_hub();
    check(&world, &world.hub_dir());
    check(&world, &backup);

    fs::rename(world.hub_dir(), world.dir.path().join("old")).unwrap();
    fs::rename(&backup, world.hub_dir()).unwrap();
    world.start_hub();
    let client = Client::new(&world.url(), &world.hub_dir());
    assert!(verify(&client) > 0);
    assert_ne!(
        epoch(&client),
        old,
        "cursors of the lost hub must mean nothing to the restored one"
    );
    let now = client.json("/api/files/changes?after=0&limit=1")["rev"]
        .as_u64()
        .unwrap();
    assert!(
        now > rev && now >= 1 << 32,
        "a revision is never given twice: {now}"
    );
    world.stop_hub();
    check(&world, &world.hub_dir());
}
