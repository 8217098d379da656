//! Answers that are written while they are read, and connections whose answer cannot be read to its end.

use std::io;

use super::*;

const LENGTH: usize = 300_000;

/// Returns `left` bytes, a few at a time, and then ends as told.
struct Source {
    left: usize,
    end: String,
}

impl Read for Source {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = into.len().min(self.left).min(7000);
        into[..n].fill(b'd');
        self.left -= n;
        match (n, self.end.as_str()) {
            (0, "panic") => panic!("as the test wants"),
            (0, "error") => Err(io::Error::other("as the test wants")),
            (n, _) => Ok(n),
        }
    }
}

pub fn answer(how: &str) -> Reply {
    let left = if how == "whole" { LENGTH } else { 100_000 };
    let length = if how == "empty" { 0 } else { LENGTH as u64 };
    Reply::job(
        "text/x",
        Job::Send {
            length,
            reader: Box::new(Source {
                left,
                end: how.into(),
            }),
        },
    )
    .header("ETag", "\"7\"")
}

#[test]
fn a_download_has_its_length_and_leaves_the_connection_open() {
    let rig = rig(64);
    let mut conn = rig.connect();
    for _ in 0..2 {
        let got = conn.ask(&get("/send?whole"));
        assert_eq!((got.status, got.body.len()), (200, LENGTH));
        assert!(
            got.head.contains("Content-Type: text/x\r\n") && got.head.contains("ETag: \"7\"\r\n"),
            "{got:?}"
        );
    }
    conn.send(&get("/send?whole").replace("GET", "HEAD"));
    assert!(
        conn.head()
            .head
            .contains("Content-Length: 300000\r\nConnection: keep-alive\r\n")
    );
    assert_eq!(conn.ask(&get("/send?empty")).body, "");
    assert_eq!(conn.ask(&get("/")).body, "hello");
}

#[test]
fn a_download_that_cannot_be_read_to_its_end_is_cut_off() {
    let rig = rig(64);
    for how in ["short", "error", "panic"] {
        let mut conn = rig.connect();
        conn.send(&get(&format!("/send?{how}")));
        assert!(conn.head().head.contains("Content-Length: 300000\r\n"));
        while conn.more() {}
        assert_eq!(conn.1.len(), 100_000, "{how}");
    }
    wait_for("no transfer", || rig.server().shared.transfers.used() == 0);
    rig.works();
}

#[test]
fn too_many_long_downloads_are_refused_and_short_ones_are_not() {
    let rig = rig(64);
    let held = rig.server().shared.transfers.take(64).unwrap();
    let got = rig.ask(&get("/send?whole"));
    assert!(
        got.status == 503 && got.head.contains("Retry-After"),
        "{got:?}"
    );
    assert_eq!(rig.ask(&get("/send?empty")).status, 200);
    drop(held);
    assert_eq!(rig.ask(&get("/send?whole")).body.len(), LENGTH);
}

#[test]
fn a_streamed_body_is_not_counted_as_memory() {
    let rig = rig(64);
    let shared = &rig.server().shared;
    let mut conn = rig.connect();
    conn.send(&put("/upload?streamed", 4 << 20));
    wait_for("an upload", || shared.transfers.used() == 1);
    assert_eq!(shared.memory.used(), 0);
    conn.send(&"u".repeat(4 << 20));
    assert_eq!(conn.answer().body, "Ok(4194304)");
}
