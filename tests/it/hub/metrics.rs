//! `/metrics` as Prometheus reads it: the values that dashboards need, and the parser of prometheus-client from PyPI.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::world::{World, wait_for};

fn metrics(world: &World) -> String {
    let key = std::fs::read_to_string(world.hub_dir().join("local.key")).unwrap();
    let mut answer = ureq::get(format!("{}/metrics", world.url()))
        .header("x-api-key", key.trim())
        .call()
        .unwrap();
    answer.body_mut().read_to_string().unwrap()
}

/// The value of the row that begins with `name`, labels included.
fn value(text: &str, name: &str) -> Option<f64> {
    let rest = text
        .lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    rest.map(|v| v.parse().unwrap_or_else(|e| panic!("{name} {v}: {e}")))
}

#[test]
fn messages_files_machines_and_the_process_have_values() {
    let mut world = World::new();
    world.start_hub();
    let (mut alpha, mut beta) = (world.machine("alpha"), world.machine("beta"));
    alpha.start();
    beta.start();
    wait_for("both were seen", &world, || {
        let text = metrics(&world);
        ["alpha", "beta"].iter().all(|host| {
            let row = format!("mesync_last_seen_timestamp_seconds{{host=\"{host}\"}}");
            value(&text, &row).is_some_and(|at| at > 1.6e9)
        })
    });
    alpha.ok(&["send", "note"]);
    wait_for("the message is counted", &world, || {
        value(&metrics(&world), "mesync_messages_accepted_total") == Some(1.0)
    });
    let text = metrics(&world);
    assert_eq!(value(&text, "mesync_files"), Some(0.0));
    for (name, least) in [
        ("process_resident_memory_bytes", 500_000.0),
        ("process_threads", 3.0),
        ("process_open_fds", 5.0),
        ("process_cpu_seconds_total", 0.0),
    ] {
        assert!(
            value(&text, name).is_some_and(|v| v >= least),
            "{name}\n{text}"
        );
    }

    // the parser that others use
    let program = "import sys\nfrom prometheus_client.parser import text_string_to_metric_families as parse\n\
        print(sum(len(f.samples) for f in parse(sys.stdin.read())))";
    let known = Command::new("python3")
        .args(["-c", "import prometheus_client.parser"])
        .output();
    if !known.is_ok_and(|o| o.status.success()) {
        println!(
            "SKIPPED: there is no python3 with prometheus-client (pip install prometheus-client)"
        );
        return;
    }
    let mut python = Command::new("python3")
        .args(["-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    python
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let read = python.wait_with_output().unwrap();
    assert!(read.status.success(), "{text}");
    let rows = text.lines().filter(|l| !l.starts_with('#')).count();
    assert_eq!(
        String::from_utf8_lossy(&read.stdout).trim(),
        rows.to_string()
    );
}
