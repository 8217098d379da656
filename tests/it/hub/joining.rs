//! Machines that join: by name, in a window, by invitation; what travels meanwhile, and a relay in between.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use crate::support::space::Net;
use crate::support::tls::Relay;
use crate::support::world::{Machine, World, wait_for};

pub fn text(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr)
}

/// A hub that has let in one machine, so that others on loopback need a key too.
pub fn world() -> World {
    let mut world = World::new();
    world.start_hub();
    hub(&world, &["key", "add", "first"]);
    world
}

/// A command on the hub that must succeed.
#[track_caller]
pub fn hub(world: &World, args: &[&str]) -> String {
    let out = world.hub_command().args(args).output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", text(&out));
    text(&out)
}

/// The code in a line such as `a asks … (code 481-203)`.
fn code(text: &str) -> String {
    let at = text.find("(code ").unwrap_or_else(|| panic!("{text}")) + 6;
    text[at..at + 7].to_string()
}

/// Starts a command of this machine, and waits until it asks; its code.
pub fn asks(world: &World, machine: &mut Machine, args: &[&str]) -> String {
    machine.start_with(args);
    wait_for("it asks", world, || machine.log().contains("(code "));
    code(&machine.log())
}

#[track_caller]
fn ends(world: &World, machine: &mut Machine, status: i32) {
    wait_for("it ends", world, || !machine.is_running());
    assert_eq!(machine.exited(), Some(status), "{}", machine.log());
}

/// A command without any variable but the base directory.
fn bare(machine: &Machine, args: &[&str]) -> Command {
    let mut command = machine.command(args);
    command
        .env_remove("MESYNC_SERVER_URL")
        .env_remove("MESYNC_HOST_ID");
    command
}

#[test]
fn machines_of_other_namespaces_ask_and_continue_once_accepted() {
    let Some(net) = Net::lay(&["machine-2", "machine-3"]) else {
        return;
    };
    let mut world = World::new();
    world.listen = "0.0.0.0";
    world.wrap = net.inside(world.port).wrap();
    world.serve.push("--start".into());
    world.start_hub();
    for name in ["machine-2", "machine-3"] {
        let there = net.place(name, world.port);
        let mut machine = world.machine(name);
        machine.wrap = there.wrap();
        let url = format!("http://{}", there.hub);
        machine.env.push(("MESYNC_SERVER_URL".into(), url));
        let code = asks(&world, &mut machine, &["start", "-v"]);
        let run = |args: &[&str]| {
            let mut command = Command::new(&world.wrap[0]);
            let plain = world.hub_command();
            command.args(&world.wrap[1..]).arg(plain.get_program());
            command.args(args).env_clear();
            command.envs(plain.get_envs().filter_map(|(k, v)| Some((k, v?))));
            text(&command.output().unwrap())
        };
        let listed = run(&["accept"]);
        assert!(
            listed.contains(name) && listed.contains(&format!("code {code}")),
            "{listed}"
        );
        let accepted = run(&["accept", name]);
        assert!(accepted.contains("is let in"), "{accepted}");
        wait_for("it reads its settings", &world, || {
            machine.log().contains("reloading the settings")
        });
        run(&["send", "hello", "--target", name]);
        wait_for("its message", &world, || machine.names("inbox").len() == 1);
        machine.stop();
        machine.env.clear();
        let out = bare(&machine, &["hosts"]);
        let out = { out }.output().unwrap();
        assert!(out.status.success(), "{}", text(&out));
    }
}

#[test]
fn a_pass_of_cron_asks_once_and_does_its_work_once_it_is_accepted() {
    let world = world();
    let machine = world.machine("a");
    machine.ok(&["send", "x"]);
    let first = machine.run(&["start", "--once"]);
    assert_eq!(first.status.code(), Some(75), "{}", text(&first));
    let again = machine.run(&["start", "--once"]);
    assert_eq!(
        code(&text(&first)),
        code(&text(&again)),
        "the request goes on"
    );
    hub(&world, &["accept", "a", "--code", &code(&text(&first))]);
    machine.ok(&["start", "--once"]);
    assert_eq!(machine.names("sent").len(), 1);
    let status = bare(&machine, &["status"]).output().unwrap();
    assert!(status.status.success(), "{}", text(&status));
}

#[test]
fn a_sync_waits_until_it_is_accepted() {
    let world = world();
    let mut machine = world.machine("a");
    let dir = world.dir.path().join("share");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("f"), "x").unwrap();
    asks(&world, &mut machine, &["sync", "-w", dir.to_str().unwrap()]);
    hub(&world, &["accept", "a"]);
    ends(&world, &mut machine, 0);
    assert!(machine.ok(&["ls"]).contains('f'));
}

#[test]
fn in_a_window_every_machine_is_let_in_and_named_but_no_name_is_given_away() {
    let world = world();
    let mut waiting = world.machine("waits");
    asks(&world, &mut waiting, &["join", &world.url()]);
    let mut window = world.hub_command();
    window.args(["accept", "--all", "--for", "10m"]);
    window.stdout(Stdio::piped());
    let mut window = window.spawn().unwrap();
    ends(&world, &mut waiting, 0);
    let machine = world.machine("comes");
    machine.ok(&["join", &world.url()]);
    let taken = world.machine("other");
    let out = taken.run(&["join", &world.url(), "--name", "first"]);
    assert_eq!(out.status.code(), Some(77), "{}", text(&out));
    let mut replaces = world.machine("replaces");
    let args = ["join", &world.url(), "--name", "first", "--replace"];
    asks(&world, &mut replaces, &args);
    let pid = rustix::process::Pid::from_child(&window);
    let mut shown = String::new();
    // the two may be told a moment later
    let out = window.stdout.as_mut().unwrap();
    while !(shown.contains("waits is let in") && shown.contains("comes is let in")) {
        let mut piece = [0; 256];
        let n = out.read(&mut piece).unwrap();
        assert!(n > 0, "{shown}");
        shown += &String::from_utf8_lossy(&piece[..n]);
    }
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(window.wait().unwrap().success());
    let late = world.machine("late").run(&["start", "--once"]);
    assert_eq!(late.status.code(), Some(75), "{}", text(&late));
}

#[test]
fn an_invitation_lets_one_machine_in_once() {
    let world = world();
    let line = hub(&world, &["invite", "a.b", "--url", &world.url()]);
    let join = |name: &str, line: &str| {
        let machine = world.machine(name);
        let mut command = bare(&machine, &["join", "-"]);
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(line.as_bytes()).unwrap();
        drop(input);
        (machine, child.wait_with_output().unwrap())
    };
    std::fs::create_dir(world.dir.path().join("one")).unwrap();
    let file = world.dir.path().join("one/config.toml");
    std::fs::write(&file, "# mine\npoll_interval = 7\n\n[hub]\nworkers = 3\n").unwrap();
    let (one, out) = join("one", &line);
    assert!(out.status.success(), "{}", text(&out));
    let config = std::fs::read_to_string(&file).unwrap();
    for line in [
        "# mine\npoll_interval = 7\n",
        "host_id = \"a.b\"\n",
        "\n\n[hub]\nworkers = 3\n",
    ] {
        assert!(config.contains(line), "{line}: {config}");
    }
    let hosts = bare(&one, &["hosts"]).output().unwrap();
    assert!(hosts.status.success(), "{}", text(&hosts));
    let (_, out) = join("two", &line);
    assert_eq!(out.status.code(), Some(77), "{}", text(&out));
    // the machine itself may have been interrupted after it was let in
    let (_, out) = join("one", &line);
    assert!(out.status.success(), "{}", text(&out));
    assert!(text(&out).contains("has joined already"), "{}", text(&out));
    // another hub's fingerprint: nothing of the secret travels
    let line = hub(&world, &["invite", "c", "--url", &world.url()]);
    let (cut, _) = line.trim().trim_end_matches('\'').rsplit_once('.').unwrap();
    let (_, out) = join("three", &format!("{cut}.{}'", "0".repeat(64)));
    assert!(
        text(&out).contains("its certificate is not"),
        "{}",
        text(&out)
    );
    let (_, out) = join("four", &line);
    assert!(out.status.success(), "{}", text(&out));
}

#[test]
fn a_name_that_has_a_key_is_given_away_only_when_both_ends_say_so() {
    let world = world();
    let machine = world.machine("first");
    let out = machine.run(&["join", &world.url()]);
    assert_eq!(out.status.code(), Some(77));
    for words in ["mesync key remove first", "--replace", "--name"] {
        assert!(text(&out).contains(words), "{words}: {}", text(&out));
    }
    let mut machine = machine;
    asks(&world, &mut machine, &["join", &world.url(), "--replace"]);
    let mut refused = world.hub_command();
    let refused = refused.args(["accept", "first"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(77), "{}", text(&refused));
    hub(&world, &["accept", "--replace", "first"]);
    ends(&world, &mut machine, 0);
    machine.ok(&["hosts"]);
    let mut none = world.hub_command();
    let none = none.args(["accept", "nobody"]).output().unwrap();
    assert_eq!(none.status.code(), Some(77), "{}", text(&none));
    assert!(text(&none).contains("nobody does not ask to be let in"));
}

#[test]
fn a_machine_that_was_set_up_anew_continues_under_its_name() {
    let world = world();
    let mut machine = world.machine("a");
    let join = |machine: &mut Machine, replace: &str| {
        let url = world.url();
        let args = ["join", &url, "--replace"];
        let count = if replace.is_empty() { 2 } else { 3 };
        asks(&world, machine, &args[..count]);
        let args = ["accept", "a", "--replace"];
        hub(&world, &args[..count]);
        ends(&world, machine, 0);
        machine.start();
    };
    let gets = |machine: &Machine| {
        hub(&world, &["send", "hello", "--target", "a"]);
        hub(&world, &["start", "--once"]);
        wait_for("its message", &world, || !machine.names("inbox").is_empty());
    };
    join(&mut machine, "");
    gets(&machine);
    // its disk is lost, with its key and the number of its spool
    machine.kill();
    std::fs::remove_dir_all(&machine.base).unwrap();
    std::fs::remove_file(machine.base.with_extension("log")).unwrap();
    join(&mut machine, "--replace");
    gets(&machine);
}

#[test]
fn a_machine_that_joins_has_the_rights_that_the_hub_gave() {
    let world = world();
    let rights = |name: &str| {
        let list = hub(&world, &["key", "list", "--json"]);
        let mut keys = list.lines().map(|line| {
            let key: serde_json::Value = serde_json::from_str(line).unwrap();
            key
        });
        let key = keys.find(|key| key["name"] == name).unwrap();
        key["rights"].to_string()
    };
    let flags = ["--read-only", "--files", "a/"];
    let url = world.url();
    let line = hub(
        &world,
        &[&["invite", "a", "--url", &url][..], &flags].concat(),
    );
    let line = line.trim().trim_start_matches("mesync join ");
    let invited = world.machine("a");
    invited.ok(&["join", line.trim_matches('\'')]);
    let limits = r#"{"files":["a"],"read_only":true}"#;
    assert_eq!(rights("a"), limits);
    let out = invited.run(&["send", "x"]);
    assert!(out.status.success(), "{}", text(&out));
    std::fs::write(invited.base.join("f"), "x").unwrap();
    let file = invited.base.join("f");
    let out = invited.run(&["upload", file.to_str().unwrap(), "--path", "a"]);
    assert_eq!(out.status.code(), Some(77), "{}", text(&out));
    assert!(text(&out).contains("key set a --read-write"));
    // set up anew: the limits outlive the key
    let mut anew = world.machine("anew");
    let args = ["join", &url, "--name", "a", "--replace"];
    asks(&world, &mut anew, &args);
    hub(&world, &["accept", "--replace", "a"]);
    ends(&world, &mut anew, 0);
    assert_eq!(rights("a"), limits);
    let mut named = world.machine("b");
    asks(&world, &mut named, &["join", &url]);
    hub(&world, &["accept", "b", "--no-files", "--send", "first"]);
    ends(&world, &mut named, 0);
    assert_eq!(rights("b"), r#"{"files":[],"send":["first"]}"#);
    let mut window = world.hub_command();
    window.args(["accept", "--all", "--for", "10m", "--no-messages"]);
    let mut window = window.stdout(Stdio::null()).spawn().unwrap();
    world.machine("c").ok(&["join", &url]);
    let pid = rustix::process::Pid::from_child(&window);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(window.wait().unwrap().success());
    assert_eq!(rights("c"), r#"{"no_messages":true}"#);
    // a right without a machine, and a limit that is none
    for args in [
        &["accept", "--read-only"][..],
        &["invite", "d", "--files", "../x"],
        &["invite", "d", "--files", "a", "--no-files"],
    ] {
        let out = world.hub_command().args(args).output().unwrap();
        assert_eq!(out.status.code(), Some(2), "{args:?}: {}", text(&out));
    }
}

/// Carries bytes to the hub and back, and keeps all of them.
fn record(port: u16) -> (u16, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    let all = Arc::new(Mutex::new(Vec::new()));
    let kept = all.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(hub) = TcpStream::connect(("127.0.0.1", port)) else {
                continue;
            };
            for (from, to) in [(&client, &hub), (&hub, &client)] {
                let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                let kept = kept.clone();
                std::thread::spawn(move || {
                    let mut piece = [0; 8192];
                    while let Ok(n @ 1..) = from.read(&mut piece) {
                        kept.lock().unwrap().extend_from_slice(&piece[..n]);
                        if to.write_all(&piece[..n]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    (own, all)
}

#[test]
fn no_secret_is_on_the_wire_in_an_argument_or_in_the_environment() {
    let world = world();
    let (port, recorded) = record(world.port);
    let url = format!("http://127.0.0.1:{port}");
    let mut machine = world.machine("a");
    machine.env.push(("MESYNC_SERVER_URL".into(), url));
    asks(&world, &mut machine, &["start", "-v"]);
    let asked = std::fs::read_to_string(machine.base.join("state/join.json")).unwrap();
    let asked: serde_json::Value = serde_json::from_str(&asked).unwrap();
    hub(&world, &["accept", "a"]);
    machine.ok(&["send", "to.the.hub"]);
    wait_for("it is sent", &world, || machine.names("sent").len() == 1);
    let read = |name: &str| std::fs::read(format!("/proc/{}/{name}", machine.pid())).unwrap();
    let (arguments, environment) = (read("cmdline"), read("environ"));
    let key = std::fs::read_to_string(machine.base.join("hub.key")).unwrap();
    assert_eq!(asked["key"], key.trim());
    let wire = recorded.lock().unwrap().clone();
    let has = |bytes: &[u8], what: &str| bytes.windows(what.len()).any(|w| w == what.as_bytes());
    // the refusals before it joined are plain, so this finds such text if there is any
    assert!(has(&wire, "HTTP/1.1 401"));
    let number = asked["number"].as_str().unwrap();
    for secret in [
        key.trim(),
        number,
        "eyJ",
        "authorization",
        "to.the.hub",
        "api_key",
    ] {
        assert!(!has(&wire, secret), "{secret} is on the wire");
    }
    assert!(!has(&arguments, key.trim()) && !has(&environment, key.trim()));
}

#[test]
fn a_relay_with_a_certificate_of_its_own_shows_another_code_and_is_refused_later() {
    let world = world();
    let relay = Relay::to(world.port);
    let mut machine = world.machine("a");
    let url = format!("http://127.0.0.1:{}", relay.port);
    let shown = asks(&world, &mut machine, &["join", &url]);
    let listed = hub(&world, &["accept"]);
    assert!(listed.contains("a  127.0.0.1  code "), "{listed}");
    assert!(!listed.contains(&shown), "{shown}: {listed}");
    // one that calls the hub itself has the same code at both ends
    let mut machine = world.machine("b");
    let shown = asks(&world, &mut machine, &["join", &world.url()]);
    hub(&world, &["accept", "b", "--code", &shown]);
    ends(&world, &mut machine, 0);
    machine.ok(&["hosts"]);
    let passed = relay.requests();
    let mut through = machine.command(&["hosts"]);
    let out = through.env("MESYNC_SERVER_URL", &url).output().unwrap();
    assert_eq!(out.status.code(), Some(69), "{}", text(&out));
    assert!(text(&out).contains("its certificate is not that of the hub"));
    assert_eq!(relay.requests(), passed, "nothing was sent to it");
}
