//! The hub's port speaks TLS and plain HTTP: which clients get what, certificates that change, and what a stranger may cost.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use super::joining::{hub, text, world};
use crate::support::world::{Machine, World, wait_for};

/// What curl gets; `None`: there is no curl.
fn curl(args: &[&str]) -> Option<String> {
    let mut command = Command::new("curl");
    match command.args(["-s", "-m", "30"]).args(args).output() {
        Ok(out) => Some(text(&out)),
        Err(_) => {
            println!("skipped: there is no curl");
            None
        }
    }
}

fn joined(world: &World, name: &str) -> Machine {
    let machine = world.machine(name);
    let line = hub(world, &["invite", name, "--url", &world.url()]);
    let invitation = line
        .trim()
        .trim_start_matches("mesync join ")
        .trim_matches('\'');
    machine.ok(&["join", invitation]);
    machine
}

#[test]
fn one_port_answers_both_and_says_whom_it_lets_in() {
    let world = world();
    let port = world.port;
    let https = format!("https://localhost:{port}/api/health");
    let Some(plain) = curl(&[&format!("http://127.0.0.1:{port}/api/health")]) else {
        return;
    };
    let file = world.hub_dir().join("tls.pem");
    let encrypted = curl(&["--cacert", file.to_str().unwrap(), &https]).unwrap();
    assert!(
        plain.contains("\"ok\"") && plain == encrypted,
        "{encrypted}"
    );
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // a machine joins through TLS only
    let join = format!("http://127.0.0.1:{port}/api/join");
    let refused = curl(&["-d", "{}", "-w", "%{http_code}", &join]).unwrap();
    assert!(refused.ends_with("403"), "{refused}");
}

#[test]
fn plain_http_can_be_ended_and_joined_machines_do_not_need_it() {
    let mut world = world();
    let mut machine = joined(&world, "a");
    world.stop_hub();
    world.hub_env.push(("MESYNC_PLAIN".into(), "none".into()));
    world.start_hub();
    machine.ok(&["hosts"]);
    machine.ok(&["send", "x"]);
    machine.start();
    wait_for("it is sent", &world, || machine.names("sent").len() == 1);
    let key = hub(&world, &["key", "add", "b"]);
    let mut other = world.machine("b");
    other.env.push(("MESYNC_API_KEY".into(), key.trim().into()));
    let out = other.run(&["hosts"]);
    assert_eq!(out.status.code(), Some(77), "{}", text(&out));
    assert!(text(&out).contains("plain HTTP"), "{}", text(&out));
    // the hub's own commands go on
    hub(&world, &["accept"]);
    let backup = world.dir.path().join("backup");
    hub(&world, &["hub", "backup", backup.to_str().unwrap()]);
    let of = |dir: &std::path::Path| std::fs::read(dir.join("tls.pem")).unwrap();
    assert_eq!(of(&backup), of(&world.hub_dir()), "a backup carries it");
}

#[test]
fn a_new_certificate_is_known_to_the_machines_that_heard_of_it() {
    let world = world();
    let (heard, away) = (joined(&world, "heard"), joined(&world, "away"));
    hub(&world, &["hub", "renew-certificate"]);
    heard.ok(&["hosts"]);
    assert!(heard.base.join("state/next-certificate").exists());
    // its time has come
    let file = world.hub_dir().join("tls-next.pem");
    let next = std::fs::read_to_string(&file).unwrap();
    let (first, rest) = next.split_once('\n').unwrap();
    assert!(first.starts_with("in force from "), "{first}");
    std::fs::write(&file, format!("in force from 2026-01-01T00:00:00Z\n{rest}")).unwrap();
    let mut world = world;
    world.stop_hub();
    world.start_hub();
    heard.ok(&["hosts"]);
    assert!(!file.exists());
    let out = away.run(&["hosts"]);
    assert_eq!(out.status.code(), Some(69), "{}", text(&out));
    assert!(
        text(&out).contains("its certificate is not"),
        "{}",
        text(&out)
    );
    // and the one after that
    hub(&world, &["hub", "renew-certificate"]);
    heard.ok(&["hosts"]);
    let known = std::fs::read_to_string(heard.base.join("state/next-certificate")).unwrap();
    assert_eq!(known.lines().count(), 2, "{known}");
}

#[test]
fn an_operators_certificate_is_for_all_but_joined_machines_and_read_again() {
    let mut world = world();
    let machine = joined(&world, "a");
    let dir = world.dir.path().to_path_buf();
    let path = |name: &str| dir.join(name).to_str().unwrap().to_string();
    let make = |name: &str| {
        let mut command = Command::new("openssl");
        command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt"]);
        command.args(["ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=x"]);
        command.args(["-addext", "subjectAltName=DNS:localhost", "-days", "9"]);
        let (key, cert) = (path("key.pem"), path(name));
        command.args(["-keyout", &key, "-out", &cert]);
        command.output().is_ok_and(|out| out.status.success())
    };
    if !make("one.pem") {
        return println!("skipped: there is no openssl");
    }
    std::fs::copy(path("one.pem"), path("cert.pem")).unwrap();
    world.stop_hub();
    for (name, value) in [("CERT", "cert.pem"), ("KEY", "key.pem")] {
        world
            .hub_env
            .push((format!("MESYNC_TLS_{name}"), path(value)));
    }
    world.start_hub();
    let url = format!("https://localhost:{}/api/health", world.port);
    let Some(got) = curl(&["--cacert", &path("one.pem"), &url]) else {
        return;
    };
    assert!(got.contains("\"ok\""), "{got}");
    machine.ok(&["hosts"]);
    assert!(make("two.pem"));
    std::fs::copy(path("two.pem"), path("cert.pem")).unwrap();
    let pid = rustix::process::Pid::from_raw(world.hub_pid() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    wait_for("the new one", &world, || {
        curl(&["--cacert", &path("two.pem"), &url]).is_some_and(|got| got.contains("\"ok\""))
    });
    machine.ok(&["hosts"]);
}

#[test]
fn the_requests_of_strangers_are_limited_and_logged() {
    let world = world();
    let url = format!("https://127.0.0.1:{}/api/join", world.port);
    let ask = |name: &str, more: &str| {
        let sum = format!("{:0>64}", name.len());
        let body = format!(r#"{{"name":"{name}","key":"{sum}","commitment":"{sum}"{more}}}"#);
        curl(&["-k", "-d", &body, "-w", "%{http_code}", &url])
    };
    for n in 1..=4 {
        let Some(got) = ask(&"x".repeat(n), "") else {
            return;
        };
        assert!(got.contains("begun") && got.ends_with("200"), "{got}");
    }
    let fifth = ask("xxxxx", "").unwrap();
    assert!(fifth.ends_with("429"), "{fifth}");
    // what did not reveal its number is not shown, and cannot be accepted
    assert!(!hub(&world, &["accept"]).contains("code"));
    // names that have keys, and invitations, are not to be guessed
    let guessed: Vec<String> = (0..11)
        .map(|n| ask("first", &format!(r#","invitation":"{n}""#)).unwrap())
        .collect();
    assert!(guessed[0].ends_with("403") && guessed[10].ends_with("429"));
    assert!(ask("first", "").unwrap().ends_with("429"));
    let logs = std::fs::read_to_string(world.dir.path().join("hub.log")).unwrap();
    for words in [
        "too many machines ask from your address",
        "a wrong invitation for first",
        "too many from one address within a minute",
    ] {
        assert!(logs.contains(words), "{words}: {logs}");
    }
}

#[test]
fn a_handshake_that_never_ends_is_ended() {
    let world = world();
    let connect = || TcpStream::connect(("127.0.0.1", world.port)).unwrap();
    let ended = |mut stream: TcpStream| {
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let mut bytes = Vec::new();
        match stream.read_to_end(&mut bytes) {
            Ok(_) => true,
            Err(e) => e.kind() == std::io::ErrorKind::ConnectionReset,
        }
    };
    // silent after its first byte
    let mut silent = connect();
    silent.write_all(&[0x16]).unwrap();
    // a record that is cut
    let mut cut = connect();
    cut.write_all(&[0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc])
        .unwrap();
    // no TLS at all
    let mut nonsense = connect();
    nonsense.write_all(&[0x16; 4096]).unwrap();
    // a byte now and then: the time counts from the first
    let mut slow = connect();
    let begun = Instant::now();
    while slow.write_all(&[0x16, 3, 1, 0x40, 0][..1]).is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(60));
        std::thread::park_timeout(Duration::from_millis(500));
    }
    for stream in [silent, cut, nonsense] {
        assert!(ended(stream));
    }
    // fragments of a message that is as long as one can be
    let mut long = connect();
    let mut record = vec![0x16, 3, 1, 0x40, 0];
    record.extend([1, 0, 0xff, 0xff]);
    record.resize(5 + 0x4000, 0);
    let mut sent = 0;
    while sent < 1 << 20 && long.write_all(&record).is_ok() {
        sent += record.len();
    }
    assert!(ended(long));
    machine_is_served(&world);
}

fn machine_is_served(world: &World) {
    joined(world, "served").ok(&["hosts"]);
}

/// A server that answers each connection with these bytes, whatever it is sent.
fn answering(bytes: &'static [u8]) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let _ = client.read(&mut [0; 4096]);
                let _ = client.write_all(bytes);
                // unread bytes would make the system discard the answer
                let _ = client.shutdown(std::net::Shutdown::Write);
                let _ = std::io::copy(&mut client, &mut std::io::sink());
            });
        }
    });
    port
}

#[test]
fn a_url_with_the_other_scheme_than_the_port_is_named_with_the_remedy() {
    let world = world();
    let mut machine = world.machine("a");
    // nginx answers plain HTTP at a port for TLS so; other servers close the connection, or send an alert
    let bad_request = answering(
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\nContent-Length: 6\r\nConnection: close\r\n\r\n<html>",
    );
    let closing = answering(b"");
    let alert = answering(b"\x15\x03\x01\x00\x02\x02\x46");
    let https = "(if that port speaks TLS only, use https:// in server_url)";
    let http = "it does not speak TLS on this port (if that port speaks plain HTTP, use http:// in server_url)";
    let unknown = "known after \"mesync join\"";
    for (scheme, port, wants) in [
        ("http", bad_request, https),
        ("http", closing, https),
        ("http", alert, https),
        ("https", bad_request, http),
        ("https", world.port, unknown),
    ] {
        let url = format!("{scheme}://127.0.0.1:{port}");
        machine.env = vec![("MESYNC_SERVER_URL".into(), url.clone())];
        let out = machine.run(&["ls"]);
        assert_eq!(out.status.code(), Some(69), "{url}: {}", text(&out));
        assert!(text(&out).contains(wants), "{url}: {}", text(&out));
        machine.start();
        wait_for("the log of the client says so", &world, || {
            let log = machine.log();
            log.lines().any(|l| l.contains(&url) && l.contains(wants))
        });
        assert_eq!(machine.stop(), Some(0));
    }
}
