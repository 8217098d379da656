//! Event streams of the server.

use super::*;
use crate::hub::http::{AfterPiece, Pieces};
use crate::hub::subscribers::StreamWakeup;

/// An event stream of a test; `mode` is the query of its request.
pub(super) struct Writer {
    pub tell: Box<dyn Fn(String) + Send>,
    pub mode: String,
    pub pieces: usize,
}

impl Pieces for Writer {
    fn begin(&mut self, _: StreamWakeup) {}

    fn is_woken(&self) -> bool {
        false
    }

    fn write(&mut self, into: &mut Vec<u8>) -> std::io::Result<AfterPiece> {
        self.pieces += 1;
        match self.mode.as_str() {
            "panic" => panic!("as the test wants"),
            "endless" => {
                into.resize(16 * 1024, b'x');
                Ok(AfterPiece::More)
            }
            "three" if self.pieces == 3 => {
                into.extend_from_slice(b"data: last\n\n");
                Ok(AfterPiece::End)
            }
            mode => {
                into.extend_from_slice(b"data: 1\n\n");
                Ok(if mode == "three" {
                    AfterPiece::More
                } else {
                    AfterPiece::Idle
                })
            }
        }
    }

    fn keep_alive(&mut self, into: &mut Vec<u8>) -> std::io::Result<AfterPiece> {
        into.extend_from_slice(b": keep-alive\n\n");
        Ok(AfterPiece::Idle)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        (self.tell)(format!("stream ended {}", self.mode));
    }
}

#[test]
fn streams_use_no_thread_and_end_alone() {
    let rig = rig(64);
    let open = |mode: &str| {
        let mut stream = rig.connect();
        stream.send(&get(&format!("/stream?{mode}")));
        assert_eq!(stream.head().status, 200);
        stream
    };
    let ended = |mode: &str| {
        let seen = rig.seen.recv_timeout(PATIENCE).unwrap();
        assert_eq!(seen, format!("stream ended {mode}"));
    };
    let threads = || rig.server().shared.clients.count();
    let (mut idle, mut endless) = (open("idle"), open("endless"));
    wait_for("no thread", || threads() == 0);
    assert_eq!(rig.counters().open.load(Relaxed), 2);
    // a reader that takes nothing keeps none of the others waiting
    let mut three = open("three");
    while three.more() {}
    assert_eq!(three.1, b"data: 1\n\ndata: 1\n\ndata: last\n\n");
    ended("three");
    let mut panicked = open("panic");
    assert!(!panicked.more());
    ended("panic");
    // it continues where its reader stopped
    while endless.1.len() < 8 << 20 {
        assert!(endless.more());
    }
    assert!(endless.1.iter().all(|byte| *byte == b'x'));
    // a reader that speaks is none
    while idle.1.len() < 9 {
        idle.more();
    }
    idle.send("x");
    ended("idle");
    drop(endless);
    ended("endless");
    wait_for("no connection", || rig.counters().open.load(Relaxed) == 0);
    let mut full: Vec<Conn> = (0..8).map(|_| open("idle")).collect();
    let refused = rig.ask(&get("/stream?refused"));
    assert!(refused.status == 503 && refused.body.contains("too many event streams"));
    ended("refused");
    full.pop();
    ended("idle");
    open("idle");
}
