//! What the program says of a server that keeps files and nothing else, and of its limit.

use crate::support::program::{Mesync, ran};
use crate::support::s3em::{KEY, S3em};

fn logged_in(server: &S3em) -> Mesync {
    let m = Mesync::new();
    m.ok(["login", "--server", &server.url, "--api-key", KEY]);
    m
}

#[test]
fn status_says_that_it_keeps_no_messages() {
    let server = S3em::start();
    let m = logged_in(&server);
    let status = |args: &[&str]| ran(m.command(args).env("MESYNC_SERVER_URL", &server.url));
    let shown = status(&["status"]);
    assert!(
        shown.status == 0
            && shown
                .out
                .contains("it keeps files only, as s3em does: messages need a mesync hub")
            && shown.out.contains("on the hub    no messages\n"),
        "{shown:?}"
    );
    let hub = status(&["status", "--json"]).json()[0]["hub"].clone();
    assert_eq!(hub["keeps_messages"], false, "{hub}");
    assert!(
        hub["problem"].is_null() && hub["reachable"] == true,
        "{hub}"
    );
}

#[test]
fn a_file_over_its_limit_is_refused_with_what_is_meant() {
    let server = S3em::start();
    let m = logged_in(&server);
    let file = m.put("long", "x".repeat(3 << 20));
    for args in [&["upload"][..], &["upload", "--json"]] {
        let refused = ran(m.command(args).arg(&file));
        refused.check(77, "accepts no file of this length: Failed to read file");
        refused.check(
            77,
            "s3em reads at most 2 MB a request; a mesync hub has no such limit",
        );
    }
}

#[test]
fn a_synced_directory_names_the_file_over_its_limit() {
    let server = S3em::start();
    let m = logged_in(&server);
    std::fs::create_dir(m.home().join("dir")).unwrap();
    std::fs::write(m.home().join("dir/long"), vec![b'x'; 3 << 20]).unwrap();
    std::fs::write(m.home().join("dir/short"), "x").unwrap();
    let dir = m.home().join("dir");
    let pass = m.run(["sync", "-w", dir.to_str().unwrap()]);
    let said = format!("{}{}", pass.out, pass.err);
    assert!(
        pass.status == 77
            && said.contains("cannot sync long: server")
            && said.contains("does not take a file of 3145728 bytes"),
        "{pass:?}"
    );
}
