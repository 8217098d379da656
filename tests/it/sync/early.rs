//! Long files that are downloaded while another machine still sends them.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::full::Mount;
use crate::support::files::{Hub, commit, noise};
use crate::support::tree::{Synced, settled};
use crate::support::world::wait_for;

/// A file of three chunks that a test sends chunk by chunk.
struct Film {
    content: Vec<u8>,
    commit: Value,
}

impl Film {
    fn new(seed: u64, name: &str) -> Film {
        let content = noise(seed, 12_000_000);
        let chunks: Vec<&[u8]> = content.chunks(4_000_000).collect();
        let commit = commit("", name, &chunks);
        Film { content, commit }
    }

    fn chunk(&self, number: usize) -> &[u8] {
        self.content.chunks(4_000_000).nth(number).unwrap()
    }

    fn announce(&self, hub: &Hub) -> String {
        let answer = hub.put_json("POST", "/api/upcoming", "", &self.commit);
        answer.is(200, "").json()["id"].as_str().unwrap().into()
    }

    fn commit(&self, hub: &Hub) {
        hub.put_json(
            "PUT",
            "/api/files/commit",
            "If-None-Match: *\r\n",
            &self.commit,
        )
        .is(201, "");
    }

    /// Where a machine has what it has received.
    fn partial(&self, at: &Synced) -> PathBuf {
        let hash = self.commit["checksum_sha256"].as_str().unwrap();
        at.at(".mesync/partial").join(hash)
    }

    fn has_come(&self, at: &Synced, bytes: usize) -> bool {
        fs::read(self.partial(at)).is_ok_and(|here| here == self.content[..bytes])
    }
}

/// How many answers of a route the hub counts.
fn answers(hub: &Hub, route: &str) -> u64 {
    let metrics = hub.get("/metrics").is(200, "");
    let metrics = String::from_utf8(metrics.body).unwrap();
    let counted = metrics
        .lines()
        .filter(|line| line.contains(&format!("route=\"{route}\",status=\"2")));
    counted
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

fn receiver(hub: &Hub) -> Synced {
    let mut b = Synced::new(&hub.world, "beta");
    b.start();
    settled(&hub.world, &[&b]);
    b
}

/// Starts what the settings name.
fn start_all(s: &mut Synced) {
    let dir = s.dir.to_str().unwrap().to_string();
    s.machine.start_with(&["start", "-v", "-w", &dir]);
}

#[test]
fn what_has_arrived_is_downloaded_before_the_commit_and_not_again() {
    let hub = Hub::start();
    let b = receiver(&hub);
    let film = Film::new(1, "film");
    film.announce(&hub);
    for number in 0..3 {
        assert_eq!(hub.put_chunk(film.chunk(number)).status, 204);
        let bytes = (number + 1) * 4_000_000;
        wait_for("the chunk has come", &hub.world, || {
            film.has_come(&b, bytes)
        });
        assert!(!b.has("film"), "it is not committed");
    }
    film.commit(&hub);
    wait_for("the file arrives", &hub.world, || b.has("film"));
    assert!(b.read("film").unwrap() == film.content);
    assert!(!film.partial(&b).exists());
    assert_eq!(answers(&hub, "download"), 0, "nothing was fetched again");
    settled(&hub.world, &[&b]);
}

#[test]
fn a_commit_in_the_middle_leaves_the_rest_and_the_next_file_to_be_downloaded() {
    let hub = Hub::start();
    let b = receiver(&hub);
    let (film, next) = (Film::new(2, "film"), Film::new(11, "next"));
    film.announce(&hub);
    assert_eq!(hub.put_chunk(film.chunk(0)).status, 204);
    wait_for("the chunk has come", &hub.world, || {
        film.has_come(&b, 4_000_000)
    });
    next.announce(&hub);
    assert_eq!(hub.put_chunk(next.chunk(0)).status, 204);
    for number in 1..3 {
        assert_eq!(hub.put_chunk(film.chunk(number)).status, 204);
    }
    film.commit(&hub);
    wait_for("the file arrives", &hub.world, || b.has("film"));
    assert!(b.read("film").unwrap() == film.content);
    wait_for("the next one is begun", &hub.world, || {
        next.has_come(&b, 4_000_000)
    });
    settled(&hub.world, &[&b]);
}

#[test]
fn a_file_that_is_never_committed_is_never_there() {
    let hub = Hub::start();
    let mut b = receiver(&hub);
    let film = Film::new(3, "film");
    film.announce(&hub);
    assert_eq!(hub.put_chunk(film.chunk(0)).status, 204);
    wait_for("the chunk has come", &hub.world, || {
        film.has_come(&b, 4_000_000)
    });
    // others are synced meanwhile, and so are further files that are being sent
    hub.upload("", "small", "text", "").is(201, "");
    wait_for("a file arrives", &hub.world, || b.has("small"));
    settled(&hub.world, &[&b]);
    assert_eq!(b.names(), ["small"]);
    b.machine.kill();
    b.start();
    // it is continued after the start, with the bytes of before
    assert_eq!(hub.put_chunk(film.chunk(1)).status, 204);
    wait_for("the chunk has come", &hub.world, || {
        film.has_come(&b, 8_000_000)
    });
    b.stop();
    assert!(!b.has("film"));
}

#[test]
fn a_list_of_other_chunks_than_those_of_the_commit_does_no_harm() {
    let hub = Hub::start();
    let b = receiver(&hub);
    let (film, mut lie) = (Film::new(4, "film"), Film::new(4, "film"));
    let other = noise(5, 4_000_000);
    let chunks = [film.chunk(0), &other, film.chunk(2)];
    lie.commit["chunks"] = commit("", "film", &chunks)["chunks"].clone();
    lie.announce(&hub);
    for chunk in chunks {
        assert_eq!(hub.put_chunk(chunk).status, 204);
    }
    let told = chunks.concat();
    wait_for("all that was told has come", &hub.world, || {
        fs::read(film.partial(&b)).is_ok_and(|here| here == told)
    });
    assert_eq!(hub.put_chunk(film.chunk(1)).status, 204);
    film.commit(&hub);
    wait_for("the file arrives", &hub.world, || b.has("film"));
    assert!(b.read("film").unwrap() == film.content);
    settled(&hub.world, &[&b]);
}

#[test]
fn a_file_that_changes_while_it_is_sent_leaves_no_second_partial_file() {
    let hub = Hub::start();
    let b = receiver(&hub);
    let film = Film::new(9, "film");
    film.announce(&hub);
    assert_eq!(hub.put_chunk(film.chunk(0)).status, 204);
    wait_for("the chunk has come", &hub.world, || {
        film.has_come(&b, 4_000_000)
    });
    let mut longer = Film::new(9, "film");
    longer.content.extend(noise(10, 4_000_000));
    let chunks: Vec<&[u8]> = longer.content.chunks(4_000_000).collect();
    longer.commit = commit("", "film", &chunks);
    longer.announce(&hub);
    wait_for("its beginning is taken over", &hub.world, || {
        longer.has_come(&b, 4_000_000)
    });
    assert!(!film.partial(&b).exists());
    for number in 1..4 {
        assert_eq!(hub.put_chunk(longer.chunk(number)).status, 204);
    }
    longer.commit(&hub);
    wait_for("the file arrives", &hub.world, || b.has("film"));
    assert!(b.read("film").unwrap() == longer.content);
    settled(&hub.world, &[&b]);
}

#[test]
fn files_that_are_never_committed_do_not_fill_the_disk() {
    let hub = Hub::start();
    let b = receiver(&hub);
    let films: Vec<Film> = (0..6)
        .map(|n| Film::new(20 + n, &format!("film {n}")))
        .collect();
    for film in &films {
        film.announce(&hub);
        for number in 0..3 {
            assert_eq!(hub.put_chunk(film.chunk(number)).status, 204);
        }
        wait_for("it has come", &hub.world, || film.has_come(&b, 12_000_000));
    }
    let left = films.iter().filter(|film| film.partial(&b).exists());
    assert_eq!(left.count(), 4);
    // the first is downloaded again, the last is there
    for film in [&films[0], &films[5]] {
        film.commit(&hub);
    }
    wait_for("both arrive", &hub.world, || {
        b.has("film 0") && b.has("film 5")
    });
    settled(&hub.world, &[&b]);
}

#[test]
fn an_early_download_that_meets_a_full_disk_leaves_the_space() {
    let hub = Hub::start();
    let mut b = Synced::new(&hub.world, "beta");
    let Some(_mount) = Mount::new(&b.dir, "40m") else {
        return;
    };
    b.start();
    settled(&hub.world, &[&b]);
    let film = Film::new(30, "film");
    film.announce(&hub);
    assert_eq!(hub.put_chunk(film.chunk(0)).status, 204);
    wait_for("the chunk has come", &hub.world, || {
        film.has_come(&b, 4_000_000)
    });
    // not a file of the directory
    let other = b.at(".mesync/other");
    let mut filler = fs::File::create(&other).unwrap();
    while filler.write_all(&[1; 65_536]).is_ok() {}
    assert_eq!(hub.put_chunk(film.chunk(1)).status, 204);
    wait_for("it is given up", &hub.world, || !film.partial(&b).exists());
    assert_eq!(hub.put_chunk(film.chunk(2)).status, 204);
    film.commit(&hub);
    wait_for("the status names it", &hub.world, || {
        b.problems().contains("film")
    });
    fs::remove_file(other).unwrap();
    drop(filler);
    wait_for("the file arrives", &hub.world, || b.has("film"));
    assert!(b.read("film").unwrap() == film.content);
}

#[test]
fn a_machine_announces_what_it_sends_and_its_death_leaves_nothing() {
    let hub = Hub::start();
    let (mut a, mut b) = (
        Synced::new(&hub.world, "alpha"),
        Synced::new(&hub.world, "beta"),
    );
    // slow enough that it is killed before its commit
    a.configure("debounce_ms = 50\nbandwidth_limit = \"2MB/s\"");
    start_all(&mut a);
    b.start();
    settled(&hub.world, &[&a, &b]);
    let content = noise(6, 60_000_000);
    a.put("d/film", &content);
    let has_begun = || {
        let dir = fs::read_dir(b.at(".mesync/partial")).into_iter().flatten();
        dir.flatten()
            .any(|file| file.metadata().is_ok_and(|m| m.len() > 1_000_000))
    };
    wait_for("the first chunks have come", &hub.world, has_begun);
    a.machine.kill();
    assert!(!b.has("d/film"));
    assert_eq!(hub.get("/api/files").is(200, "").json(), json!([]));
    a.configure("debounce_ms = 50");
    start_all(&mut a);
    wait_for("the file arrives", &hub.world, || b.has("d/film"));
    assert!(b.read("d/film").unwrap() == content);
    settled(&hub.world, &[&a, &b]);
}

#[test]
fn a_machine_that_only_sends_or_has_the_name_already_downloads_nothing_early() {
    let hub = Hub::start();
    let (mut sender, mut owner) = (
        Synced::new(&hub.world, "alpha").with(&["--mode", "send-only"]),
        Synced::new(&hub.world, "beta"),
    );
    owner.put("film", "a short film");
    sender.start();
    owner.start();
    wait_for("the short film is on the hub", &hub.world, || {
        hub.changes(100).len() == 1
    });
    let (film, last) = (Film::new(7, "film"), Film::new(8, "other"));
    film.announce(&hub);
    last.announce(&hub);
    assert_eq!(hub.put_chunk(film.chunk(0)).status, 204);
    assert_eq!(hub.put_chunk(last.chunk(0)).status, 204);
    wait_for("a new name is downloaded", &hub.world, || {
        last.has_come(&owner, 4_000_000)
    });
    assert!(!film.partial(&owner).exists() && !last.partial(&sender).exists());
}
