//! What a client does with its outbox: rubbish, refusals, names that are taken, clocks that are set.

use std::os::unix::fs::symlink;
use std::time::Duration;

use super::delivery::three;
use crate::support::world::wait_for;

#[test]
fn rubbish_in_the_outbox_stops_nothing_and_says_why() {
    let (world, alpha, beta, _gamma) = three();
    let outbox = alpha.dir("outbox");
    let old = |name: &str| {
        let at = std::time::SystemTime::now() - Duration::from_secs(120);
        std::fs::File::open(outbox.join(name))
            .unwrap()
            .set_modified(at)
            .unwrap();
    };
    std::fs::create_dir(outbox.join("a-directory")).unwrap();
    old("a-directory");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        outbox.join("a-fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    symlink("/etc/hostname", outbox.join("a-link.json")).unwrap();
    std::fs::write(outbox.join("not-json"), "hello").unwrap();
    old("not-json");
    std::fs::write(outbox.join(".hidden.json"), r#"{"type":"x"}"#).unwrap();
    std::fs::write(outbox.join("x.json.part"), r#"{"type":"x"}"#).unwrap();
    let half = outbox.join("half.json");
    std::fs::write(&half, r#"{"type":"half","payl"#).unwrap();
    alpha.drop_file("no-type", r#"{"payload":1}"#);
    alpha.drop_file("array", "[1]");
    alpha.drop_file(
        "too-long",
        &format!(r#"{{"type":"x","payload":"{}"}}"#, "a".repeat(300 * 1024)),
    );
    let odd = "odd \n \"name\" 'é' -x";
    alpha.drop_file(odd, r#"{"type":"odd.name"}"#);
    let long = "l".repeat(255);
    std::fs::write(alpha.base.join("t"), r#"{"payload":2}"#).unwrap();
    std::fs::rename(alpha.base.join("t"), outbox.join(&long)).unwrap();
    alpha.ok(&["send", "good.one"]);
    wait_for("the good ones arrive", &world, || {
        beta.names("inbox").len() == 2
    });
    wait_for("the bad ones are refused", &world, || {
        alpha
            .names("failed")
            .iter()
            .filter(|n| n.ends_with(".reason"))
            .count()
            >= 6
    });
    let reason = |name: &str| {
        std::fs::read_to_string(alpha.dir("failed").join(format!("{name}.reason")))
            .unwrap_or_default()
    };
    assert!(
        reason("no-type").contains("it has no \"type\": add one"),
        "{}",
        reason("no-type")
    );
    assert!(
        reason("array").contains("one JSON object"),
        "{}",
        reason("array")
    );
    assert!(
        reason("too-long").contains("a message may have 262144"),
        "{}",
        reason("too-long")
    );
    assert!(
        reason("not-json").contains("it is not JSON"),
        "{}",
        reason("not-json")
    );
    assert!(
        reason("a-directory").contains("it is a directory"),
        "{}",
        reason("a-directory")
    );
    // young: left alone for a minute
    let left: Vec<String> = alpha.names("outbox");
    assert!(
        left.contains(&"half.json".to_string())
            && left.contains(&"a-fifo".to_string())
            && left.contains(&"x.json.part".to_string()),
        "{left:?}"
    );
    std::fs::write(&half, r#"{"type":"half","payload":true}"#).unwrap();
    wait_for("what was completed is sent", &world, || {
        beta.messages("inbox").iter().any(|m| m["type"] == "half")
    });
    assert!(outbox.join(".hidden.json").exists());
}

#[test]
fn a_second_client_and_a_second_machine_of_the_same_name_are_told_what_to_do() {
    let (world, alpha, beta, _gamma) = three();
    let again = alpha.run(&["start"]);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert_eq!(again.status.code(), Some(75), "{said}");
    assert!(
        said.contains("another mesync client (process") && said.contains("MESYNC_BASE_DIR"),
        "{said}"
    );
    let once = alpha.run(&["start", "--once"]);
    assert_eq!(
        (once.status.code(), once.stderr.len(), once.stdout.len()),
        (Some(75), 0, 0)
    );
    assert_eq!(
        alpha.run(&["start", "--once", "-v"]).status.code(),
        Some(75)
    );
    assert!(!alpha.run(&["start", "--once", "-v"]).stderr.is_empty());

    // a new router that has the name of an old one
    let mut twin = world.machine("twin");
    twin.env.push(("MESYNC_HOST_ID".into(), "beta".into()));
    let out = twin.run(&["start", "--once"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(77), "{said}");
    assert!(
        said.contains("MESYNC_HOST_ID") && said.contains("mesync hosts rebind"),
        "{said}"
    );
    drop(beta);
    alpha.ok(&["send", "for.beta", "--target", "beta"]);
    twin.ok(&["hosts", "rebind", "beta"]);
    wait_for("the new one gets what the old one did not", &world, || {
        twin.ok(&["start", "--once"]);
        twin.names("inbox").len() == 1
    });
}

#[test]
fn a_message_that_the_hub_refuses_is_in_failed_and_can_be_retried() {
    let (world, alpha, beta, _gamma) = three();
    let id = alpha.ok(&["send", "first"]);
    wait_for("it is sent", &world, || alpha.names("sent").len() == 1);
    // the same id with other content
    alpha.drop_file("again.json", &format!(r#"{{"type":"other","id":"{id}"}}"#));
    wait_for("it is refused", &world, || alpha.names("failed").len() == 2);
    assert!(
        alpha.ok(&["list", "failed"]).contains("the hub refused it"),
        "{}",
        alpha.ok(&["list", "failed"])
    );
    let failed = alpha.names("failed")[0].clone();
    let text = std::fs::read_to_string(alpha.dir("failed").join(&failed)).unwrap();
    let fresh = "01933b5e-0000-7000-8000-000000000001";
    std::fs::write(alpha.dir("failed").join(&failed), text.replace(&id, fresh)).unwrap();
    alpha.ok(&["retry"]);
    wait_for("it arrives", &world, || {
        beta.messages("inbox").iter().any(|m| m["id"] == fresh)
    });
    assert!(
        alpha.names("failed").is_empty(),
        "{:?}",
        alpha.names("failed")
    );
}

#[test]
fn a_message_from_before_the_clock_was_set_is_sent_by_a_client_that_starts_later() {
    let (mut world, mut a, b, _c) = three();
    a.stop();
    a.ok(&["send", "boot", "--target", &b.name]);
    let outbox = a.base.join("outbox");
    let name = a.names("outbox").remove(0);
    // as if it had been sent by the date of the firmware, half a year ago: longer than the deadline
    let id = name.split_once('_').unwrap().1;
    std::fs::rename(
        outbox.join(&name),
        outbox.join(format!("20260201T101112_{id}")),
    )
    .unwrap();
    world.kill_hub();
    a.start();
    world.start_hub();
    wait_for("it is sent", &world, || {
        a.names("sent").len() == 1 && a.names("outbox").is_empty()
    });
    assert_eq!(a.names("failed").len(), 0, "{}", a.log());
}
