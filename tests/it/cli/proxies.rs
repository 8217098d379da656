//! Proxies that the environment names: the way to the hub, and which end is named when it does not work.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Output;
use std::sync::{Arc, Mutex};

use crate::support::world::{Machine, World};

/// An address of documentation (RFC 5737): only a proxy of the test leads there.
const HUB: &str = "http://192.0.2.7:8080";

/// An HTTP proxy that connects every CONNECT to one port, or answers with a status; what it was asked for.
fn proxy(port: u16, status: Option<&'static str>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = asked.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let mut lines = BufReader::new(client.try_clone().unwrap()).lines();
            let first = lines.next().and_then(Result::ok).unwrap_or_default();
            while lines
                .next()
                .and_then(Result::ok)
                .is_some_and(|line| !line.is_empty())
            {}
            seen.lock().unwrap().push(first);
            let mut client = client;
            let answer = format!("HTTP/1.1 {}\r\n\r\n", status.unwrap_or("200 Connected"));
            let (Ok(()), None) = (client.write_all(answer.as_bytes()), status) else {
                continue;
            };
            let hub = TcpStream::connect(("127.0.0.1", port)).unwrap();
            for (mut from, mut to) in [
                (client.try_clone().unwrap(), hub.try_clone().unwrap()),
                (hub, client),
            ] {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    (address, asked)
}

fn hosts(machine: &Machine, url: &str, env: &[(&str, &str)]) -> Output {
    let mut command = machine.command(&["hosts"]);
    command
        .env("MESYNC_SERVER_URL", url)
        .env("MESYNC_HTTP_TIMEOUT", "10")
        .envs(env.iter().copied())
        .output()
        .unwrap()
}

#[track_caller]
fn says(out: &Output, status: i32, words: &[&str]) {
    let text = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(status), "{text}");
    assert!(
        words.iter().all(|word| text.contains(word)),
        "{words:?}: {text}"
    );
}

#[test]
fn the_hub_is_called_by_the_proxy_of_its_scheme_and_directly_where_no_proxy_says_so() {
    let mut world = World::new();
    world.start_hub();
    let added = world
        .hub_command()
        .args(["key", "add", "m"])
        .output()
        .unwrap();
    assert!(
        added.status.success(),
        "{}",
        String::from_utf8_lossy(&added.stderr)
    );
    let key = String::from_utf8(added.stdout).unwrap().trim().to_string();
    let mut m = world.machine("m");
    m.env.push(("MESYNC_API_KEY".into(), key));
    let (address, asked) = proxy(world.port, None);
    let count = || asked.lock().unwrap().len();

    says(&hosts(&m, HUB, &[("http_proxy", &address)]), 0, &[]);
    assert_eq!(asked.lock().unwrap()[0], "CONNECT 192.0.2.7:8080 HTTP/1.1");
    says(
        &hosts(&m, HUB, &[("ALL_PROXY", &format!("http://{address}"))]),
        0,
        &[],
    );

    // a hub on this machine is called directly, and so is one that is excepted: no proxy is asked
    let before = count();
    says(
        &hosts(
            &m,
            &world.url(),
            &[("http_proxy", &address), ("all_proxy", &address)],
        ),
        0,
        &[],
    );
    let direct = [
        ("http_proxy", address.as_str()),
        ("NO_PROXY", "192.0.2.0/24"),
        ("MESYNC_HTTP_TIMEOUT", "1"),
    ];
    let out = hosts(&m, HUB, &direct);
    assert!(
        !String::from_utf8_lossy(&out.stderr).contains("proxy"),
        "{out:?}"
    );
    let out = hosts(
        &m,
        HUB,
        &[("HTTPS_PROXY", &address), ("MESYNC_HTTP_TIMEOUT", "1")],
    );
    assert!(
        !String::from_utf8_lossy(&out.stderr).contains("proxy"),
        "{out:?}"
    );
    assert_eq!(count(), before, "{asked:?}");
}

#[test]
fn an_error_names_the_proxy_and_the_variable_that_sets_it() {
    let world = World::new();
    let m = world.machine("m");
    let dead = format!("127.0.0.1:{}", world.port);
    let by = |name: &'static str| {
        format!(
            "cannot reach hub {HUB} through the proxy {dead} (set by {name}): connection refused"
        )
    };
    says(
        &hosts(&m, HUB, &[("HTTP_PROXY", &dead)]),
        69,
        &[&by("HTTP_PROXY"), "NO_PROXY"],
    );
    says(
        &hosts(&m, HUB, &[("all_proxy", &dead)]),
        69,
        &[&by("all_proxy")],
    );
    for status in [
        "407 Proxy Authentication Required",
        "502 Bad Gateway",
        "503 Service Unavailable",
        "403 Forbidden",
    ] {
        let (address, _) = proxy(1, Some(status));
        let named = format!(
            "through the proxy {address} (set by http_proxy): the proxy refuses to connect: "
        );
        says(
            &hosts(&m, HUB, &[("http_proxy", &address)]),
            69,
            &[&named, &status[..3]],
        );
    }
    let secret = hosts(
        &m,
        HUB,
        &[("http_proxy", "socks5://user:pw-secret@proxy:1")],
    );
    says(
        &secret,
        78,
        &["cannot use the proxy in http_proxy: only HTTP proxies can be used"],
    );
    assert!(!String::from_utf8_lossy(&secret.stderr).contains("pw-secret"));
}
