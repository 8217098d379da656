//! Machines that are really apart: hub and client in network namespaces of their own, a link that can be cut.

use std::process::Output;

use crate::support::space::Net;
use crate::support::world::{World, wait_for};

fn text(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

#[test]
fn another_machine_needs_a_key_and_is_told_how_to_get_one_and_survives_a_cut_cable() {
    let Some(net) = Net::lay(&["away"]) else {
        return;
    };
    let mut world = World::new();
    let mut away = world.machine("away");
    let there = net.place("away", world.port);
    world.listen = "0.0.0.0";
    world.wrap = net.inside(world.port).wrap();
    away.wrap = there.wrap();
    away.env.extend([
        ("MESYNC_SERVER_URL".into(), format!("http://{}", there.hub)),
        ("MESYNC_HTTP_TIMEOUT".into(), "2".into()),
    ]);
    world.start_hub();
    let out = away.run(&["status"]);
    assert!(text(&out).contains("mesync key add"), "{}", text(&out));

    away.ok(&["send", "x"]);
    let out = away.run(&["start", "--once"]);
    assert_eq!(out.status.code(), Some(75), "{}", text(&out));
    let part = "on the hub run \"mesync accept away\"";
    assert!(text(&out).contains(part), "{part}: {}", text(&out));
    assert_eq!(away.names("outbox").len(), 1);

    let out = world
        .hub_command()
        .args(["key", "add", "away"])
        .output()
        .unwrap();
    let key = String::from_utf8(out.stdout).unwrap().trim().to_string();
    away.env.push(("MESYNC_API_KEY".into(), key));
    let out = away.run(&["start", "--once"]);
    assert!(out.status.success(), "{}", text(&out));
    assert_eq!(away.names("sent").len(), 1);
    assert!(
        text(&out).contains("plain HTTP") || text(&out).is_empty(),
        "{}",
        text(&out)
    );

    // silently cut: no answer, no refusal
    away.start();
    away.ok(&["send", "y"]);
    wait_for("it is sent", &world, || away.names("sent").len() == 2);
    net.cut("away");
    away.ok(&["send", "z"]);
    wait_for("it is noticed", &world, || {
        away.log().contains("messages wait; retrying")
    });
    assert_eq!(away.names("outbox").len(), 1);
    net.mend("away");
    wait_for("it is sent", &world, || away.names("sent").len() == 3);
}
