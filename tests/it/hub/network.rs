//! Machines that are really apart: hub and client in network namespaces of their own, a link that can be cut.

#![allow(clippy::disallowed_methods)] // the test is a user: it has its own clock

#[path = "support/world.rs"]
mod world;

use std::process::{Command, Output, Stdio};

use world::{Machine, World, binary, wait_for};

/// Two namespaces joined by a cable, removed with the test.
struct Cable {
    hub: String,
    client: String,
}

fn ip(args: &[&str]) -> bool {
    Command::new("ip")
        .args(args)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

impl Cable {
    /// `None`, with a word, if this user may not make namespaces.
    fn lay(name: &str) -> Option<Cable> {
        let (hub, client) = (
            format!("{name}-hub-{}", std::process::id()),
            format!("{name}-cl-{}", std::process::id()),
        );
        let cable = Cable { hub, client };
        if !ip(&["netns", "add", &cable.hub]) || !ip(&["netns", "add", &cable.client]) {
            assert!(
                std::env::var_os("CI").is_none(),
                "cannot make network namespaces"
            );
            println!("SKIPPED: only root with iproute2 can make the network that this test needs");
            return None;
        }
        let laid = ip(&[
            "-n",
            &cable.hub,
            "link",
            "add",
            "v",
            "type",
            "veth",
            "peer",
            "name",
            "v",
            "netns",
            &cable.client,
        ]) && ip(&["-n", &cable.hub, "addr", "add", "10.88.0.1/24", "dev", "v"])
            && ip(&[
                "-n",
                &cable.client,
                "addr",
                "add",
                "10.88.0.2/24",
                "dev",
                "v",
            ])
            && [&cable.hub, &cable.client].iter().all(|ns| {
                ip(&["-n", ns, "link", "set", "v", "up"])
                    && ip(&["-n", ns, "link", "set", "lo", "up"])
            });
        assert!(laid, "cannot lay the cable");
        Some(cable)
    }

    fn set(&self, up: bool) {
        assert!(ip(&[
            "-n",
            &self.hub,
            "link",
            "set",
            "v",
            if up { "up" } else { "down" }
        ]));
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        ip(&["netns", "del", &self.hub]);
        ip(&["netns", "del", &self.client]);
    }
}

/// `mesync ARGS` of a machine in a namespace.
fn within(ns: &str, machine: &Machine, args: &[&str]) -> Command {
    let plain = machine.command(args);
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", ns])
        .arg(binary())
        .args(plain.get_args())
        .env_clear();
    command.envs(
        plain
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

fn text(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

#[test]
fn another_machine_needs_a_key_and_is_told_how_to_get_one_and_survives_a_cut_cable() {
    let Some(cable) = Cable::lay("mesync") else {
        return;
    };
    let world = World::new();
    let (mut hub, mut away) = (world.machine("hub"), world.machine("away"));
    let url = (
        "MESYNC_SERVER_URL".to_string(),
        "http://10.88.0.1:8080".to_string(),
    );
    hub.env.push(url.clone());
    away.env.push(url);
    away.env.push(("MESYNC_HTTP_TIMEOUT".into(), "2".into()));
    let log = std::fs::File::create(world.dir.path().join("serve.log")).unwrap();
    let mut serve = within(&cable.hub, &hub, &["serve"])
        .stderr(log)
        .spawn()
        .unwrap();
    wait_for("the hub listens", &world, || {
        within(&cable.client, &away, &["status"])
            .output()
            .is_ok_and(|o| text(&o).contains("mesync key add"))
    });

    away.ok(&["send", "x"]);
    let out = within(&cable.client, &away, &["start", "--once"])
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(77), "{}", text(&out));
    for part in ["mesync key add", "MESYNC_API_KEY"] {
        assert!(text(&out).contains(part), "{part}: {}", text(&out));
    }
    assert_eq!(away.names("outbox").len(), 1);

    let key = hub.ok(&["key", "add", "away"]);
    away.env.push(("MESYNC_API_KEY".into(), key));
    let out = within(&cable.client, &away, &["start", "--once"])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", text(&out));
    assert_eq!(away.names("sent").len(), 1);
    assert!(
        text(&out).contains("plain HTTP") || text(&out).is_empty(),
        "{}",
        text(&out)
    );

    // silently cut: no answer, no refusal
    let log = std::fs::File::create(world.dir.path().join("away.log")).unwrap();
    let mut daemon = within(&cable.client, &away, &["start"])
        .stderr(log)
        .spawn()
        .unwrap();
    away.ok(&["send", "y"]);
    wait_for("it goes", &world, || away.names("sent").len() == 2);
    cable.set(false);
    away.ok(&["send", "z"]);
    wait_for("it is noticed", &world, || {
        world.logs().contains("tried again")
    });
    assert_eq!(away.names("outbox").len(), 1);
    cable.set(true);
    wait_for("it goes", &world, || away.names("sent").len() == 3);
    for child in [&mut daemon, &mut serve] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
