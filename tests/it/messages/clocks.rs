//! A wall clock that jumps ahead, as one does that a wrong answer from the network has set.

use std::path::PathBuf;

use crate::support::world::World;

/// Programs that load it see another time.
fn faketime() -> Option<PathBuf> {
    let places = std::fs::read_dir("/usr/lib").ok()?;
    let mut libraries = places
        .flatten()
        .map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
    let found = libraries.find(|path| path.exists());
    assert!(
        found.is_some() || std::env::var_os("CI").is_none(),
        "install faketime"
    );
    found
}

#[test]
fn a_clock_that_jumps_a_year_ahead_ends_neither_sent_messages_nor_waiting_ones() {
    let Some(library) = faketime() else {
        println!("SKIPPED: there is no faketime; install it to run this test");
        return;
    };
    let year_ahead = [
        ("LD_PRELOAD".to_string(), library.display().to_string()),
        ("FAKETIME".to_string(), "+400d".to_string()),
        // the time since boot is what it is
        ("FAKETIME_DONT_FAKE_MONOTONIC".to_string(), "1".to_string()),
    ];
    let mut world = World::new();
    world.start_hub();
    let (mut alpha, beta) = (world.machine("alpha"), world.machine("beta"));
    beta.ok(&["start", "--once"]);
    alpha.ok(&["send", "x", "--target", "beta"]);
    alpha.ok(&["start", "--once"]);
    assert_eq!(alpha.names("sent").len(), 1);
    alpha.env.extend(year_ahead.clone());
    alpha.ok(&["start", "--once"]);
    assert_eq!(alpha.names("sent").len(), 1, "ended by the clock");
    // as when the first pass of all has that clock
    std::fs::remove_file(alpha.base.join("state/clock")).unwrap();
    alpha.ok(&["start", "--once"]);
    assert_eq!(
        alpha.names("sent").len(),
        0,
        "the clock is not a year ahead"
    );

    world.stop_hub();
    world.hub_env.extend(year_ahead);
    world.start_hub();
    beta.ok(&["start", "--once"]);
    assert_eq!(beta.names("inbox").len(), 1, "ended by the hub's clock");
}
