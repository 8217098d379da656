//! `mesync status` says `healthy` only if that is known: a client that was refused, failed, or died makes it degraded.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::support::proxy::Proxy;
use crate::support::world::{Machine, World, wait_for};
use serde_json::Value;

/// Exit status, JSON and text of `mesync status`.
fn status(machine: &Machine) -> (Option<i32>, Value, String) {
    let (json, text) = (machine.run(&["status", "--json"]), machine.run(&["status"]));
    let parsed: Value =
        serde_json::from_slice(&json.stdout).unwrap_or_else(|e| panic!("{e}: {json:?}"));
    assert_eq!(parsed["healthy"], json.status.success(), "{parsed}");
    let shown = String::from_utf8(text.stdout).unwrap();
    assert_eq!(
        shown.ends_with("status        healthy\n"),
        text.status.success(),
        "{shown}"
    );
    (json.status.code(), parsed, shown)
}

fn is_healthy(machine: &Machine) -> bool {
    status(machine).0 == Some(0)
}

fn configure(machine: &Machine, text: &str) {
    std::fs::create_dir_all(&machine.base).unwrap();
    std::fs::write(machine.base.join("config.toml"), text).unwrap();
}

#[test]
fn a_machine_that_the_hub_refuses_is_degraded() {
    let mut world = World::new();
    world.start_hub();
    let (mut first, mut second) = (world.machine("first"), world.machine("second"));
    for machine in [&mut first, &mut second] {
        machine
            .env
            .push(("MESYNC_HOST_ID".into(), "openwrt".into()));
        configure(machine, "poll_interval = 1\n");
    }
    first.start();
    wait_for("the first is healthy", &world, || is_healthy(&first));
    second.start();
    wait_for("the second is told why it is refused", &world, || {
        let (code, json, text) = status(&second);
        let problem = json["problem"].as_str().unwrap_or_default();
        code == Some(1)
            && problem.contains("another machine acts under the name")
            && text.contains("another machine acts under")
    });
    assert!(is_healthy(&first), "{:?}", status(&first));
    second.stop();
    // a pass from cron leaves the reason too, so its machine is degraded
    let out = second.run(&["-q", "start", "--once"]);
    assert_eq!(out.status.code(), Some(77), "{out:?}");
    let (code, json, text) = status(&second);
    assert!(
        code == Some(1) && json["client"] == Value::Null && text.contains("the client has failed"),
        "{json} {text}"
    );
    // the cure
    second.ok(&["hosts", "rebind", "openwrt"]);
    first.stop();
    second.ok(&["start", "--once"]);
    assert!(is_healthy(&second), "{:?}", status(&second));
}

#[test]
fn a_client_is_healthy_once_the_hub_has_answered() {
    let mut world = World::new();
    world.start_hub();
    let mut m = world.machine("m");
    configure(&m, "poll_interval = 1\n");
    let slow = Proxy::to(world.port);
    slow.hold_up(Some(0));
    m.env.push(("MESYNC_SERVER_URL".into(), slow.url()));
    m.start();
    // status asks the hub itself
    m.env.pop();
    wait_for("the client starts", &world, || {
        !status(&m).1["client"].is_null()
    });
    let (code, json, text) = status(&m);
    let problem = json["problem"].as_str().unwrap_or_default();
    assert_eq!(code, Some(1), "{text}");
    assert!(problem.contains("the hub has not answered yet"), "{json}");
    assert!(text.ends_with("degraded: client problem\n"), "{text}");
    slow.hold_up(None);
    wait_for("the hub has answered", &world, || is_healthy(&m));
}

#[test]
fn a_client_that_died_is_degraded_and_one_that_was_stopped_is() {
    let mut world = World::new();
    world.start_hub();
    let mut m = world.machine("m");
    let dir = world.dir.path().join("synced");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("a"), "1").unwrap();
    configure(
        &m,
        &format!(
            "poll_interval = 1\n[[watch]]\npath = '{}'\ndebounce_ms = 50\n",
            dir.display()
        ),
    );
    m.start();
    wait_for("the machine is healthy", &world, || is_healthy(&m));
    let process = m.pid().to_string();
    assert_eq!(status(&m).1["client"], process.as_str());
    m.kill();
    let (code, json, text) = status(&m);
    assert_eq!(
        (code, &json["client"], &json["healthy"]),
        (Some(1), &Value::Null, &false.into()),
        "{json}"
    );
    assert!(
        json["problem"]
            .as_str()
            .unwrap()
            .contains(&format!("(process {process}) has died")),
        "{json}"
    );
    assert!(
        json["client_seen_at"].is_string() && text.contains("s ago"),
        "{json} {text}"
    );
    let row = &json["directories"][0];
    assert_eq!(
        (&row["died"], &row["healthy"], &row["process"]),
        (&true.into(), &false.into(), &Value::Null),
        "{row}"
    );
    assert!(
        text.contains("the process that synced it has died"),
        "{text}"
    );

    m.start();
    wait_for("the machine is healthy again", &world, || is_healthy(&m));
    assert_eq!(m.stop(), Some(0));
    let (code, json, text) = status(&m);
    assert_eq!(
        (code, &json["directories"][0]["died"]),
        (Some(0), &false.into()),
        "{json}"
    );
    assert!(
        text.contains("not running; the last one ended ")
            && text.contains("not running; last seen in sync"),
        "{text}"
    );
    assert!(std::fs::read(m.base.join("state/lock")).unwrap().is_empty());
    // as an older client left it at each stop
    std::fs::write(m.base.join("state/lock"), format!("{process}\n")).unwrap();
    assert!(is_healthy(&m), "{:?}", status(&m));

    // a process of its own for the directory
    m.start_with(&["daemon", "-v", "-w", dir.to_str().unwrap()]);
    wait_for("it is kept in sync", &world, || {
        status(&m).1["directories"][0]["process"] == m.pid().to_string().as_str()
    });
    wait_for("the machine is healthy", &world, || is_healthy(&m));
    m.kill();
    assert_eq!(status(&m).1["directories"][0]["died"], true);
    m.ok(&["sync", "-w", dir.to_str().unwrap()]);
    assert!(is_healthy(&m), "{:?}", status(&m));
    // killed while the directory cannot be opened later
    m.start();
    wait_for("the machine is healthy", &world, || is_healthy(&m));
    m.kill();
    std::fs::remove_dir_all(dir.join(".mesync")).unwrap();
    m.start();
    wait_for(
        "the directory is held, and its process lives",
        &world,
        || {
            let row = status(&m).1["directories"][0].clone();
            row["condition"] == "held" && row["died"] == false
        },
    );
}

#[test]
fn a_pass_that_leaves_something_behind_ends_with_status_1() {
    let mut world = World::new();
    world.start_hub();
    let m = world.machine("m");
    m.ok(&["start", "--once"]);
    assert!(is_healthy(&m));
    m.hook("broken", "exit 3");
    m.ok(&["send", "broken", "--target", "m"]);
    let pass = || {
        let out = m.run(&["-q", "start", "--once"]);
        assert!(out.stdout.is_empty(), "{out:?}");
        out.status.code()
    };
    // the first pass may only send
    pass();
    assert_eq!(pass(), Some(1));
    assert!(!is_healthy(&m));
    m.ok(&["flush", "hooks"]);
    assert_eq!(pass(), Some(0));
    m.drop_file("broken.json", "{\"no\":\"type\"}");
    assert_eq!(pass(), Some(1));
    m.ok(&["flush", "failed"]);
    assert_eq!(pass(), Some(0));
    assert!(is_healthy(&m), "{:?}", status(&m));
    world.kill_hub();
    assert_eq!(pass(), Some(69));
    assert!(
        status(&m).2.contains("the client has failed"),
        "{:?}",
        status(&m)
    );
}

/// Passes everything to the hub, but event streams only while that is wanted.
fn relay(port: u16, refuses: Arc<AtomicBool>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut caller in listener.incoming().flatten() {
            let refuses = refuses.clone();
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && caller.read(&mut byte).is_ok_and(|n| n == 1) {
                    head.push(byte[0]);
                }
                if head.starts_with(b"GET /api/events") && refuses.load(Relaxed) {
                    let body = r#"{"error":"this key may not listen"}"#;
                    let answer = format!(
                        "HTTP/1.1 403 Forbidden\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                        body.len()
                    );
                    return drop(caller.write_all(answer.as_bytes()));
                }
                let Ok(mut hub) = TcpStream::connect(("127.0.0.1", port)) else {
                    return;
                };
                let _ = hub.write_all(&head);
                let (mut from_hub, mut to_caller) =
                    (hub.try_clone().unwrap(), caller.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from_hub, &mut to_caller);
                    let _ = to_caller.shutdown(Shutdown::Both);
                });
                let _ = std::io::copy(&mut caller, &mut hub);
                let _ = hub.shutdown(Shutdown::Both);
            });
        }
    });
    url
}

#[test]
fn a_refused_event_stream_is_named_in_log_and_status_until_it_opens() {
    let mut world = World::new();
    world.start_hub();
    let refuses = Arc::new(AtomicBool::new(true));
    let url = relay(world.port, refuses.clone());
    let mut m = world.machine("m");
    let dir = world.dir.path().join("synced");
    std::fs::create_dir(&dir).unwrap();
    configure(
        &m,
        &format!("poll_interval = 1\n[[watch]]\npath = '{}'\n", dir.display()),
    );
    m.env.push(("MESYNC_SERVER_URL".into(), url));
    m.start();
    wait_for("status names it", &world, || {
        let (code, json, _) = status(&m);
        let says = |v: &Value| {
            v.to_string().contains("cannot open the event stream: ")
                && v.to_string().contains("may not listen")
        };
        code == Some(1) && says(&json["problem"]) && says(&json["directories"][0]["problems"])
    });
    // messages arrive by polls meanwhile, and do not make it healthy
    m.ok(&["send", "x", "--target", "m"]);
    wait_for("a message arrives", &world, || m.names("inbox").len() == 1);
    assert!(!is_healthy(&m));
    refuses.store(false, Relaxed);
    wait_for("the machine is healthy", &world, || is_healthy(&m));
    assert_eq!(
        m.log().matches("cannot open the event stream").count(),
        1,
        "{}",
        m.log()
    );
}
