//! A client that is short of descriptors, threads or memory waits and works on: nothing ends it, and nothing is lost.

use std::process::Command;

use crate::support::inject::{self, Fault};
use crate::support::world::{Machine, World, wait_for};
use rustix::process::{Pid, Signal, kill_process};

fn configure(machine: &Machine, text: &str) {
    std::fs::create_dir_all(&machine.base).unwrap();
    std::fs::write(machine.base.join("config.toml"), text).unwrap();
}

fn hang_up(pid: u32) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::HUP).unwrap();
}

fn limit_files(pid: u32, soft: usize) {
    let out = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--nofile={soft}:")])
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
}

fn is_healthy(machine: &Machine) -> bool {
    machine.run(&["status"]).status.success()
}

/// A client with a synced directory and a hook, at work.
fn client(world: &World) -> (Machine, Machine, std::path::PathBuf, String) {
    let (mut m, other) = (world.machine("m"), world.machine("other"));
    let dir = world.dir.path().join("synced");
    std::fs::create_dir(&dir).unwrap();
    let watch = format!(
        "[[watch]]\npath = '{}'\nremote = 'r'\ndebounce_ms = 50\n",
        dir.display()
    );
    configure(&m, &format!("poll_interval = 1\n{watch}"));
    m.hook(
        "work",
        &format!("echo done >>{}", m.base.join("done").display()),
    );
    m.start();
    wait_for("the machine is healthy", world, || is_healthy(&m));
    (m, other, dir, watch)
}

#[test]
fn a_client_without_descriptors_waits_and_does_everything_later() {
    if Command::new("prlimit").arg("--version").output().is_err() {
        return println!("skipped: it needs prlimit");
    }
    let mut world = World::new();
    world.start_hub();
    let (mut m, other, dir, watch) = client(&world);
    for spare in [0, 1, 2, 3, 5, 8] {
        let open = std::fs::read_dir(format!("/proc/{}/fd", m.pid()))
            .unwrap()
            .count();
        let (before, lines) = (
            m.log().matches("too many open files").count(),
            m.log().lines().count(),
        );
        let heard = || {
            m.log().matches("cannot reload the settings").count()
                + m.log().matches("reloading the settings").count()
        };
        let hung_up = heard();
        limit_files(m.pid(), open + spare);
        // something of every kind
        let name = |what: &str| format!("{what}-{spare}");
        m.ok(&["send", "work", "--target", "m"]);
        m.drop_file(
            &format!("{}.json", name("dropped")),
            "{\"type\":\"dropped\",\"target\":\"m\"}",
        );
        std::fs::create_dir(dir.join(name("dir"))).unwrap();
        std::fs::write(dir.join(name("dir")).join("here"), vec![7; 300_000]).unwrap();
        let there = world.dir.path().join(name("there"));
        std::fs::write(&there, vec![8; 300_000]).unwrap();
        other.ok(&["upload", "--path", "r", there.to_str().unwrap()]);
        configure(
            &m,
            &format!("poll_interval = 1\nhttp_timeout = {}\n{watch}", 20 + spare),
        );
        hang_up(m.pid());
        if spare == 0 {
            wait_for("the shortage is named", &world, || {
                m.log().matches("too many open files").count() > before
            });
        }
        wait_for(
            "the settings are read, or cannot be read yet",
            &world,
            || heard() > hung_up,
        );
        assert!(m.is_running(), "{spare}: {}", m.log());
        limit_files(m.pid(), 1024);
        hang_up(m.pid());
        let hooks = || {
            std::fs::read_to_string(m.base.join("done"))
                .unwrap_or_default()
                .lines()
                .count()
        };
        let rounds = [0, 1, 2, 3, 5, 8].iter().position(|n| *n == spare).unwrap() + 1;
        wait_for("messages arrive and hooks run", &world, || {
            m.names("inbox").len() == rounds * 2 && hooks() == rounds
        });
        let on_hub = || {
            other
                .ok(&["ls", "--all"])
                .lines()
                .any(|line| line.ends_with(&format!("r/{}/here", name("dir"))))
        };
        wait_for("files travel", &world, || {
            dir.join(name("there")).exists() && on_hub()
        });
        wait_for("the machine is healthy", &world, || is_healthy(&m));
        assert!(
            m.is_running() && m.log().lines().count() < lines + 400,
            "{spare}: {}",
            m.log()
        );
    }
    assert_eq!(m.stop(), Some(0), "{}", m.log());
}

#[test]
fn a_client_that_can_start_no_thread_starts_the_rest_later() {
    if !inject::is_available() {
        return println!("skipped: it needs strace");
    }
    let mut world = World::new();
    world.start_hub();
    let (mut m, _, dir, watch) = client(&world);
    let trace = world.dir.path().join("trace");
    for nth in 1..=4 {
        let fault = Fault {
            for_ever: true,
            ..Fault::new("clone3", nth, "EAGAIN", &trace)
        };
        let attached = inject::attach(m.pid(), &fault);
        configure(
            &m,
            &format!("poll_interval = 1\nhttp_timeout = {}\n{watch}", 20 + nth),
        );
        let before = m.log().matches("cannot apply the new settings yet").count();
        hang_up(m.pid());
        wait_for("it says that it waits", &world, || {
            m.log().matches("cannot apply the new settings yet").count() > before || !m.is_running()
        });
        assert!(m.is_running(), "{nth}: {}", m.log());
        drop(attached);
        m.ok(&["send", "work", "--target", "m"]);
        std::fs::write(dir.join(format!("f{nth}")), "x").unwrap();
        wait_for("it works again", &world, || {
            m.names("inbox").len() == nth as usize && is_healthy(&m)
        });
    }
    assert_eq!(m.stop(), Some(0), "{}", m.log());
}

/// All calls that start a thread or a process.
const STARTS: &str = "clone3,?clone,?vfork,?fork";

#[test]
fn a_client_and_a_hub_that_can_start_no_thread_and_no_process_do_everything_later() {
    if !inject::is_available() {
        return println!("skipped: it needs strace");
    }
    let mut world = World::new();
    world.start_hub();
    let (mut m, other, dir, _) = client(&world);
    let done = m.base.join("done");
    let hooks = || {
        std::fs::read_to_string(&done)
            .unwrap_or_default()
            .lines()
            .count()
    };
    let fault = |of: &str| Fault {
        for_ever: true,
        ..Fault::new(STARTS, 1, "EAGAIN", &world.dir.path().join(of))
    };
    let (of_client, of_hub) = (fault("client"), fault("hub"));

    let client_attached = inject::attach(m.pid(), &of_client);
    m.ok(&["send", "work", "--target", "m"]);
    wait_for("the hook cannot be started", &world, || {
        of_client.has_struck() && m.log().contains("cannot start ")
    });
    std::fs::write(dir.join("by-client"), "x").unwrap();
    let on_hub = |name: &str| {
        let out = other.run(&["ls", "--all"]);
        String::from_utf8_lossy(&out.stdout).contains(&format!("r/{name}"))
    };
    wait_for("files travel", &world, || on_hub("by-client"));
    assert!(m.is_running() && hooks() == 0, "{}", m.log());

    let hub_attached = inject::attach(world.hub_pid(), &of_hub);
    other.drop_file("dropped.json", "{\"type\":\"work\",\"target\":\"m\"}");
    std::fs::write(dir.join("by-both"), "x").unwrap();
    wait_for("the hub refuses a connection", &world, || {
        other.run(&["start", "--once"]);
        of_hub.has_struck()
    });
    drop(client_attached);
    wait_for("the hook runs", &world, || hooks() >= 1);
    drop(hub_attached);
    wait_for("all that waited is done", &world, || {
        other.run(&["start", "--once"]);
        hooks() == 2 && on_hub("by-both") && is_healthy(&m)
    });
    assert!(
        other.names("failed").is_empty() && m.names("inbox").len() == 2,
        "{}",
        m.log()
    );
    assert_eq!(m.stop(), Some(0), "{}", m.log());
    assert_eq!(world.stop_hub(), Some(0), "{}", world.logs());
}

#[test]
fn a_client_whose_waits_fail_for_want_of_memory_works_on() {
    if !inject::is_available() {
        return println!("skipped: it needs strace");
    }
    let mut world = World::new();
    world.start_hub();
    let (mut m, ..) = client(&world);
    let trace = world.dir.path().join("trace");
    for call in ["poll", "ppoll"] {
        let fault = Fault {
            for_ever: true,
            ..Fault::new(call, 1, "ENOMEM", &trace)
        };
        let attached = inject::attach(m.pid(), &fault);
        let before = m.names("inbox").len();
        m.ok(&["send", "x", "--target", "m"]);
        // a pass of the hub's own directory wakes the waits
        m.drop_file("woken.json", "{\"type\":\"x\",\"target\":\"m\"}");
        wait_for(
            "a wait fails, or there is none of that kind",
            &world,
            || fault.has_struck() || m.names("inbox").len() == before + 2,
        );
        drop(attached);
        wait_for("messages arrive", &world, || {
            m.names("inbox").len() == before + 2
        });
        assert!(m.is_running(), "{call}: {}", m.log());
    }
    assert_eq!(m.stop(), Some(0), "{}", m.log());
}
