//! Large files and trees: what moves of them is what has changed.

use std::fs;
use std::io::Write;

use super::changes::{Pair, both_ways};
use crate::support::files::noise;
use crate::support::world::wait_for;

#[test]
fn a_renamed_directory_with_a_thousand_files_moves_no_bytes() {
    const FILES: usize = 1000;
    both_ways(|pair| {
        let (a, b) = (&pair.alpha, &pair.beta);
        for n in 0..FILES {
            a.put(format!("old/{}/f{n}", n % 7), format!("content of {n}"));
        }
        if pair.daemons {
            wait_for("all arrive", &pair.hub.world, || {
                b.names().len() == FILES + 8
            });
        }
        let before = pair.settle();
        a.rename("old", "new");
        if pair.daemons {
            wait_for("the new name arrives", &pair.hub.world, || {
                b.has("new/0/f0")
            });
            let after = pair.settle();
            assert_eq!(
                after.values().collect::<Vec<_>>(),
                before.values().collect::<Vec<_>>()
            );
        } else {
            let said = a.pass();
            assert_eq!(
                (&said["bytes_sent"], &said["sent"]),
                (&0.into(), &FILES.into()),
                "{said}"
            );
            let said = b.pass();
            assert_eq!(
                (&said["bytes_received"], &said["conflicts"]),
                (&0.into(), &0.into()),
                "{said}"
            );
            let after = pair.settle();
            assert_eq!(
                after.values().collect::<Vec<_>>(),
                before.values().collect::<Vec<_>>()
            );
        }
        assert!(!b.has("old"));
    });
}

#[test]
fn a_file_that_grows_is_right_in_the_end_and_never_half_a_line() {
    let pair = Pair::new(true);
    let (a, b, hub) = (&pair.alpha, &pair.beta, &pair.hub);
    let mut file = fs::File::create(a.at("log")).unwrap();
    let mut seen = 0;
    for n in 0..40 {
        writeln!(file, "line {n:04} of a log that grows").unwrap();
        let text = b.text("log");
        assert!(
            text == "-" || text.is_empty() || text.ends_with("grows\n"),
            "{text}"
        );
        seen = seen.max(text.lines().count());
        // changes of other machines continue meanwhile
        b.put(format!("n{n}"), "x");
        wait_for("a change of the other arrives", &hub.world, || {
            a.has(format!("n{n}"))
        });
    }
    let text = || a.text("log") == b.text("log") && b.text("log").lines().count() == 40;
    wait_for("what is held open and written arrives", &hub.world, text);
    drop(file);
    fs::File::options()
        .append(true)
        .open(a.at("log"))
        .unwrap()
        .write_all(b"closed\n")
        .unwrap();
    wait_for("the last line arrives", &hub.world, || {
        b.text("log").ends_with("closed\n")
    });
    pair.settle();
    assert!(
        b.names().iter().all(|n| !n.contains("conflict")),
        "{:?}",
        b.names()
    );
}

#[test]
fn a_change_in_the_middle_of_a_large_file_moves_little() {
    let pair = Pair::new(false);
    let (a, b) = (&pair.alpha, &pair.beta);
    for (name, megabytes) in [("nine", 9), ("forty", 40)] {
        let mut bytes = noise(megabytes as u64, megabytes << 20);
        a.put(name, &bytes);
        let said = a.pass();
        assert!(
            said["bytes_sent"].as_u64().unwrap() >= bytes.len() as u64,
            "{said}"
        );
        b.pass();
        assert!(b.read(name).unwrap() == bytes);
        let middle = bytes.len() / 2;
        bytes.splice(middle..middle, *b"something is put in here");
        a.put(name, &bytes);
        let said = a.pass();
        assert!(said["bytes_sent"].as_u64().unwrap() < 3 << 20, "{said}");
        let said = b.pass();
        assert!(said["bytes_received"].as_u64().unwrap() < 3 << 20, "{said}");
        assert!(b.read(name).unwrap() == bytes);
    }
    pair.settle();
}

#[test]
fn a_change_in_a_long_file_moves_what_has_changed() {
    let pair = Pair::new(true);
    let (a, b, hub) = (&pair.alpha, &pair.beta, &pair.hub);
    let mut content = noise(5, 24_000_000);
    a.put("long", &content);
    wait_for("the file arrives", &hub.world, || {
        b.read("long").as_ref() == Some(&content)
    });
    pair.settle();
    let answers = |route: &str| -> u64 {
        let metrics = hub.get("/metrics").is(200, "");
        let metrics = String::from_utf8(metrics.body).unwrap();
        let counted = metrics.lines().filter(|line| line.contains(route));
        let number = |line: &str| line.rsplit(' ').next()?.parse::<u64>().ok();
        counted.filter_map(number).sum()
    };
    assert_eq!(answers("route=\"file_parts\""), 0);
    for (at, removed, new) in [
        (12_000_000, 1_000_000, noise(6, 1_000_000)),
        (0, 0, b"x".to_vec()),
        (23_999_990, 3, noise(7, 500)),
        (6_000_000, 40_000, Vec::new()),
    ] {
        let before = ["file_pieces", "put_chunk", "file_parts"]
            .map(|route| answers(&format!("route=\"{route}\",status=\"20")));
        content.splice(at..at + removed, new);
        a.save("long", &content);
        wait_for("the change arrives", &hub.world, || {
            b.read("long").as_ref() == Some(&content)
        });
        let after = ["file_pieces", "put_chunk", "file_parts"]
            .map(|route| answers(&format!("route=\"{route}\",status=\"20")));
        for (before, after) in before.iter().zip(after) {
            assert!(after > *before, "at {at}: {before:?}, {after:?}");
        }
    }
    pair.settle();
}
