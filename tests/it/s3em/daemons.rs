//! Daemons that keep directories in sync through the server of the published `s3ec`.

use std::fs;
use std::time::{Duration, Instant};

use super::machine::{Machine, of, stored, two, wait_for};
use crate::support::program::Mesync;
use crate::support::s3em::{KEY, S3em};
use crate::support::world::free_port;

#[test]
fn daemons_follow_each_other() {
    let (server, mut one, mut two) = two();
    one.put("d/before", "before");
    one.start();
    two.start();
    wait_for("both listen", &[&one, &two], || server.listeners() == 2);
    let same = |what: &str, one: &Machine, two: &Machine, wants: &[(&str, &str)]| {
        let wants = of(wants);
        wait_for(what, &[one, two], || {
            one.tree() == wants && two.tree() == wants && stored(&server) == wants
        });
    };
    same(
        "what was there before",
        &one,
        &two,
        &[("d/before", "before")],
    );
    one.put("new", "new");
    same(
        "something new",
        &one,
        &two,
        &[("d/before", "before"), ("new", "new")],
    );
    two.put("new", "edited by two");
    same(
        "an edit",
        &one,
        &two,
        &[("d/before", "before"), ("new", "edited by two")],
    );
    one.rename("d/before", "after");
    same(
        "a rename",
        &one,
        &two,
        &[("after", "before"), ("new", "edited by two")],
    );
    fs::remove_file(two.at("new")).unwrap();
    same("a delete", &one, &two, &[("after", "before")]);

    // a 401 after a restart of the server
    server.forget_tokens();
    one.put("again", "x");
    same(
        "after the tokens",
        &one,
        &two,
        &[("after", "before"), ("again", "x")],
    );

    // edited on both while neither runs
    one.stop();
    two.stop();
    one.put("after", "by one");
    two.put("after", "by two, longer");
    one.start();
    wait_for("one has sent its edit", &[&one], || {
        stored(&server)["after"] == "by one"
    });
    two.start();
    wait_for("both are kept", &[&one, &two], || {
        one.tree().len() == 3 && one.tree() == two.tree() && stored(&server) == one.tree()
    });
    assert_eq!(one.tree()["after"], "by one");
    assert!(
        one.tree()
            .values()
            .any(|content| content == "by two, longer")
    );
    assert_eq!(
        one.log().matches("is no mesync hub").count(),
        2,
        "once a start"
    );

    // after any change, it becomes quiet again
    let (mut before, mut since) = (server.listings(), Instant::now());
    wait_for("nobody lists any more", &[&one, &two], || {
        if server.listings() != before {
            (before, since) = (server.listings(), Instant::now());
        }
        since.elapsed() > Duration::from_secs(2)
    });
}

#[test]
fn a_daemon_that_starts_before_its_server_works_once_that_runs() {
    let address = format!("127.0.0.1:{}", free_port());
    let m = Mesync::named("one");
    fs::create_dir(m.home().join("dir")).unwrap();
    let mut one = Machine { m, daemon: None };
    one.put("f", "x");
    one.start_as(
        "daemon",
        &[
            ("MESYNC_SERVER_URL", &format!("http://{address}")),
            ("MESYNC_API_KEY", KEY),
        ],
    );
    wait_for("it says what is wrong", &[&one], || {
        one.log().contains("cannot reach hub")
    });
    let server = S3em::start_at(&address);
    wait_for("the file is there", &[&one], || {
        stored(&server) == of(&[("f", "x")])
    });
}

/// The whole client: its messages have another server, or none that knows them.
#[test]
fn files_are_synced_even_if_messages_fail() {
    let (server, mut one, mut two) = two();
    one.start_as("start", &[]);
    two.start_as(
        "start",
        &[("MESYNC_SERVER_URL", &server.url), ("MESYNC_API_KEY", KEY)],
    );
    one.put("f", "x");
    wait_for("the file comes", &[&one, &two], || {
        two.tree() == of(&[("f", "x")])
    });
    two.put("f", "y, longer");
    wait_for("its edit comes", &[&one, &two], || {
        one.tree() == of(&[("f", "y, longer")])
    });
}

#[test]
fn many_files_at_once_do_not_make_many_listings() {
    let (server, mut one, mut two) = two();
    one.start();
    two.start();
    wait_for("both listen", &[&one, &two], || server.listeners() == 2);
    for n in 0..400 {
        one.put(&format!("d{}/f{n}", n % 5), format!("content {n}"));
    }
    wait_for("all of them arrive", &[&one, &two], || {
        stored(&server).len() == 400 && two.tree() == one.tree()
    });
    let listings = server.listings();
    assert!(
        listings < 800,
        "{listings} listings for 400 files on two machines"
    );
}
