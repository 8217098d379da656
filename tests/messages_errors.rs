//! Every call of the message half that touches the disk fails, one at a time: nothing is lost, nothing comes twice.
//!
//! `crash` kills at each call; here the call returns an error and the process goes on.

#![allow(clippy::disallowed_methods)] // the test is a user

#[path = "support/inject.rs"]
mod inject;
#[path = "support/world.rs"]
mod world;

use std::cell::Cell;

use world::World;

#[test]
fn a_send_whose_calls_fail_leaves_a_whole_message_or_says_that_there_is_none() {
    if !inject::is_available() {
        return;
    }
    let world = World::new();
    let alpha = world.machine("alpha");
    alpha.ok(&["send", "first"]);
    let calls = ["fsync", "renameat2", "linkat", "unlink", "write", "openat", "mkdir"];
    let before = Cell::new(1);
    let struck = inject::every_call(&world.dir.path().join("trace"), &calls, &["ENOSPC", "EIO"], |fault| {
        let out = inject::wrap(&alpha.command(&["send", "x.y", "--payload", "[1,2,3]"]), fault).output().unwrap();
        let (names, after) = (alpha.names("outbox").len(), alpha.messages("outbox").len());
        assert_eq!(after, names, "half a message under its final name, {fault}");
        let new = after - before.replace(after);
        match out.status.code() {
            Some(0) if fault.call == "write" && fault.has_struck() => assert_eq!(new, 1, "{fault}: {}", fault.struck()),
            Some(0) => assert_eq!(new, 1, "{fault}"),
            // it says that it may be sent all the same when only the last sync has failed
            status => assert!(new == 0 || status.is_some_and(|s| s != 0), "{fault}: {out:?}"),
        }
    });
    assert!(struck > 10, "{struck} calls only");
}
