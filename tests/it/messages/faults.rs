//! Failures around the program: keys, ports, disks, other kinds of hubs. A clear line, the right
//! status, nothing lost.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::world::{Machine, World, wait_for};

#[track_caller]
fn check(out: &Output, status: i32, says: &[&str]) {
    let said =
        String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    assert_eq!(out.status.code(), Some(status), "{said}");
    for part in says {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

/// A small filesystem of its own; `None`, with a word, if this user may not mount one.
struct SmallDisk<'a>(&'a Path);

impl SmallDisk<'_> {
    fn mount<'a>(at: &'a Path, size: &str) -> Option<SmallDisk<'a>> {
        std::fs::create_dir_all(at).unwrap();
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "none"])
            .arg(at)
            .output();
        if done.is_ok_and(|out| out.status.success()) {
            return Some(SmallDisk(at));
        }
        assert!(std::env::var_os("CI").is_none(), "cannot mount a tmpfs");
        println!("SKIPPED: only root can mount the small disk that this test fills");
        None
    }

    /// Writes until nothing fits.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("filler")).unwrap();
        for piece in [65536, 4096, 512, 1] {
            while file.write_all(&vec![7; piece]).is_ok() {}
        }
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

fn registered(machine: &Machine) {
    machine.ok(&["start", "--once"]);
}

#[test]
fn a_busy_port_and_a_second_hub_are_named() {
    let mut world = World::new();
    world.start_hub();
    let serve = |data: &str| {
        let mut command = world.hub_command();
        command
            .env("MESYNC_DATA_DIR", world.dir.path().join(data))
            .args(["serve", "--listen", &format!("127.0.0.1:{}", world.port)]);
        command.output().unwrap()
    };
    check(
        &serve("other-data"),
        73,
        &[
            "cannot listen on 127.0.0.1:",
            "address already in use",
            "--listen",
        ],
    );
    check(&serve("hub-data"), 75, &["another", "hub-data"]);
}

#[test]
fn a_server_of_another_kind_is_named_and_the_message_waits() {
    let world = World::new();
    let listener = TcpListener::bind(("127.0.0.1", world.port)).unwrap();
    let answer = std::thread::Builder::new().spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\nConnection: close\r\n\r\nnot found");
        }
    });
    drop(answer.unwrap());
    let alpha = world.machine("alpha");
    alpha.ok(&["send", "x"]);
    let says = [
        "does not answer as a mesync hub",
        "status 404",
        "check server_url",
    ];
    check(&alpha.run(&["start", "--once"]), 69, &says);
    check(&alpha.run(&["status"]), 1, &says);
    assert_eq!(alpha.names("outbox").len(), 1);
}

#[test]
fn keys_let_in_bind_to_their_host_and_are_taken_back_at_once() {
    let mut world = World::new();
    world.start_hub();
    let mut alpha = world.machine("alpha");
    registered(&alpha);
    let key = |name: &str| {
        let out = world
            .hub_command()
            .args(["key", "add", name])
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8(out.stdout).unwrap().trim().to_string()
    };
    let (alphas, betas) = (key("alpha"), key("beta"));
    alpha.ok(&["send", "x", "--payload", "1"]);
    // the hub has keys now: it refuses every caller without one, except its own user
    check(
        &alpha.run(&["start", "--once"]),
        77,
        &["set MESYNC_API_KEY"],
    );
    assert!(
        world
            .hub_command()
            .args(["hosts"])
            .output()
            .unwrap()
            .status
            .success(),
        "the hub's own user has local.key"
    );
    alpha.env = vec![("MESYNC_API_KEY".into(), "x".repeat(43))];
    check(
        &alpha.run(&["start", "--once"]),
        77,
        &["refuses this machine"],
    );
    alpha.env = vec![("MESYNC_API_KEY".into(), betas)];
    check(&alpha.run(&["start", "--once"]), 77, &["beta"]);
    assert_eq!(
        (alpha.names("outbox").len(), alpha.names("failed").len()),
        (1, 0),
        "it waits"
    );
    let file = world.dir.path().join("key");
    std::fs::write(&file, format!("{alphas}\n")).unwrap();
    alpha.env = vec![("MESYNC_API_KEY_FILE".into(), file.display().to_string())];
    check(
        &alpha.run(&["start", "--once"]),
        78,
        &["others can read it", "chmod 600"],
    );
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    registered(&alpha);
    assert_eq!(alpha.names("sent").len(), 1);

    alpha.start();
    alpha.ok(&["send", "y"]);
    wait_for("it goes", &world, || alpha.names("sent").len() == 2);
    assert!(
        world
            .hub_command()
            .args(["key", "remove", "alpha"])
            .output()
            .unwrap()
            .status
            .success()
    );
    alpha.ok(&["send", "z"]);
    wait_for("it is refused at once", &world, || {
        alpha.log().contains("refuses this machine")
    });
    assert_eq!(alpha.names("outbox").len(), 1);
    assert!(alpha.is_running());
}

#[test]
fn a_token_of_the_local_hub_is_not_sent_to_another_program_on_its_port() {
    let mut world = World::new();
    world.start_hub();
    let mut own = world.machine("own");
    own.env.push((
        "MESYNC_DATA_DIR".into(),
        world.hub_dir().display().to_string(),
    ));
    own.env.push(("MESYNC_POLL_INTERVAL".into(), "1".into()));
    assert!(
        world
            .hub_command()
            .args(["key", "add", "other"])
            .output()
            .unwrap()
            .status
            .success()
    );
    own.start();
    own.ok(&["send", "x", "--target", "own"]);
    wait_for("it has a token", &world, || own.names("inbox").len() == 1);
    world.stop_hub();
    let listener = TcpListener::bind(("127.0.0.1", world.port)).unwrap();
    for stream in listener.incoming().flatten().take(3) {
        let mut head = [0; 4096];
        let n = { stream }.read(&mut head).unwrap();
        let head = String::from_utf8_lossy(&head[..n]).to_lowercase();
        assert!(
            head.contains("host: ") && !head.contains("authorization") && !head.contains("api_key"),
            "{head}"
        );
    }
}

#[test]
fn a_full_disk_of_a_client_loses_nothing() {
    let mut world = World::new();
    world.start_hub();
    let (alpha, mut beta) = (world.machine("alpha"), world.machine("beta"));
    let at = beta.base.clone();
    let Some(disk) = SmallDisk::mount(&at, "1m") else {
        return;
    };
    registered(&beta);
    beta.start();
    wait_for("it runs", &world, || beta.log().contains("started"));
    disk.fill();
    check(
        &beta.run(&[
            "send",
            "x",
            "--payload",
            &format!("\"{}\"", "a".repeat(20_000)),
        ]),
        75,
        &["no space left", "free space"],
    );
    assert!(beta.names("outbox").is_empty());
    for n in 0..20 {
        alpha.ok(&[
            "send",
            "x",
            "--payload",
            &format!("[{n},\"{}\"]", "a".repeat(20_000)),
        ]);
    }
    registered(&alpha);
    wait_for("it says so", &world, || {
        beta.log().contains("no space left")
    });
    assert!(beta.is_running());
    disk.make_room();
    wait_for("all is there", &world, || beta.names("inbox").len() == 20);
    assert_eq!(beta.seen().len(), 20);
    beta.kill();
}

#[test]
fn a_full_disk_of_the_hub_loses_nothing() {
    let mut world = World::new();
    let at = world.hub_dir();
    let Some(disk) = SmallDisk::mount(&at, "32m") else {
        return;
    };
    world.start_hub();
    let (mut alpha, beta) = (world.machine("alpha"), world.machine("beta"));
    registered(&beta);
    alpha.start();
    alpha.ok(&["send", "before", "--payload", "0"]);
    wait_for("the first goes", &world, || alpha.names("sent").len() == 1);
    disk.fill();
    for n in 0..50 {
        alpha.ok(&[
            "send",
            "x",
            "--payload",
            &format!("[{n},\"{}\"]", "a".repeat(20_000)),
        ]);
    }
    wait_for("the sender says so", &world, || {
        alpha.log().contains("cannot do it now") || alpha.log().contains("messages wait: target=")
    });
    assert_eq!(
        (alpha.names("outbox").len(), alpha.names("failed").len()),
        (50, 0)
    );
    // what the hub has can still be had
    registered(&beta);
    assert_eq!(beta.names("inbox").len(), 1);
    disk.make_room();
    wait_for("all is sent", &world, || alpha.names("sent").len() == 51);
    registered(&beta);
    assert_eq!(beta.names("inbox").len(), 51);
    alpha.kill();
    assert_eq!(world.stop_hub(), Some(0));
}

#[test]
fn a_hub_that_hangs_is_given_up_and_found_again() {
    let mut world = World::new();
    world.start_hub();
    let mut alpha = world.machine("alpha");
    alpha.env.push(("MESYNC_HTTP_TIMEOUT".into(), "1".into()));
    alpha.env.push(("MESYNC_POLL_INTERVAL".into(), "1".into()));
    alpha.start();
    let signal = |name: rustix::process::Signal| {
        let pid = rustix::process::Pid::from_raw(world.hub_pid() as i32).unwrap();
        rustix::process::kill_process(pid, name).unwrap();
    };
    alpha.ok(&["send", "a"]);
    wait_for("it goes", &world, || alpha.names("sent").len() == 1);
    signal(rustix::process::Signal::STOP);
    alpha.ok(&["send", "b"]);
    wait_for("it is given up", &world, || {
        alpha.log().contains("no response in time")
    });
    let out = alpha.run(&["status"]);
    signal(rustix::process::Signal::CONT);
    check(&out, 1, &["no response in time"]);
    wait_for("it goes when the hub is back", &world, || {
        alpha.names("sent").len() == 2
    });
    wait_for("it says so", &world, || {
        alpha.log().contains("is reachable again")
    });
}

#[test]
fn hub_and_client_in_one_process() {
    let mut world = World::new();
    world.serve.push("--start".into());
    // no hub is named: it is the one in the same process
    world
        .hub_env
        .push(("MESYNC_SERVER_URL".into(), String::new()));
    world.start_hub();
    let alpha = world.machine("alpha");
    registered(&alpha);
    let hub = world.machine("hub-base");
    wait_for("the hub's machine is known", &world, || {
        String::from_utf8_lossy(&alpha.run(&["hosts"]).stdout).contains("hub ")
    });
    alpha.ok(&["send", "x"]);
    registered(&alpha);
    wait_for("it is in the inbox there", &world, || {
        hub.names("inbox").len() == 1
    });
    assert!(
        world
            .hub_command()
            .args(["send", "y", "--target", "alpha"])
            .output()
            .unwrap()
            .status
            .success()
    );
    wait_for("and the other way", &world, || {
        registered(&alpha);
        alpha.names("inbox").len() == 1
    });
    assert_eq!(world.stop_hub(), Some(0));
}
