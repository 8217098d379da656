//! The files in contrib run: the demo and the example hooks, under the system's sh and under
//! BusyBox with nothing else.
//!
//! Where BusyBox or jq is missing, the part that needs it is skipped with a message.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::files::Hub;
use crate::support::world::{wait_for, write_program};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn which(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(program))
        .find(|p| p.is_file())
}

/// A search path with BusyBox's programs, jq, and a `systemctl` that writes down what it was asked; without BusyBox, the
/// system's programs.
fn path_with(busybox: bool, dir: &Path) -> Option<String> {
    let bin = dir.join("bin");
    fs::create_dir(&bin).unwrap();
    write_program(
        &bin.join("systemctl"),
        "#!/bin/sh\necho \"$@\" >>systemctl.log\n[ ! -e refuse ]\n",
    );
    if !busybox {
        return Some(format!(
            "{}:{}",
            bin.display(),
            std::env::var("PATH").unwrap()
        ));
    }
    let Some(program) = which("busybox") else {
        println!("left out: there is no busybox");
        return None;
    };
    let list = Command::new(&program).arg("--list").output().unwrap();
    for applet in String::from_utf8(list.stdout).unwrap().lines() {
        symlink(&program, bin.join(applet)).unwrap();
    }
    if let Some(jq) = which("jq") {
        symlink(jq, bin.join("jq")).unwrap();
    }
    Some(bin.display().to_string())
}

fn demo(busybox: bool) {
    let dir = tempfile::tempdir().unwrap();
    let Some(path) = path_with(busybox, dir.path()) else {
        return;
    };
    let scratch = dir.path().join("scratch");
    fs::create_dir(&scratch).unwrap();
    let mut command = Command::new("sh");
    command
        .arg(root().join("contrib/demo.sh"))
        .env("PATH", path)
        .env("TMPDIR", &scratch);
    // a variable of the caller's must not matter
    command
        .env("MESYNC", env!("CARGO_BIN_EXE_mesync"))
        .env("MESYNC_SERVER_URL", "http://127.0.0.1:1");
    let output = command.stdin(Stdio::null()).output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success() && out.contains("The demo is done"),
        "{}\n{out}\n{err}",
        output.status
    );
    assert_eq!(
        fs::read_dir(&scratch).unwrap().count(),
        0,
        "the demo left something behind"
    );
}

#[test]
fn the_demo_runs_under_sh() {
    demo(false);
}

#[test]
fn the_demo_runs_under_busybox() {
    demo(true);
}

#[test]
fn the_demo_names_a_missing_program() {
    let output = Command::new("sh")
        .arg(root().join("contrib/demo.sh"))
        .env("MESYNC", "/does/not/exist")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no program /does/not/exist"));
}

/// Runs a hook as mesync does and compares its exit status and what it prints.
fn check(dir: &Path, path: &str, hook: &str, payload: &str, wants: (i32, &str)) {
    let mut command = Command::new("sh");
    command
        .arg(root().join("contrib/hooks").join(hook))
        .current_dir(dir)
        .env_clear()
        .env("PATH", path);
    command.envs([
        ("MESYNC_ID", "7"),
        ("MESYNC_TYPE", hook),
        ("MESYNC_SOURCE", "alpha"),
        ("MESYNC_ATTEMPT", "1"),
    ]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    // a hook need not read all of it
    let _ = write!(
        child.stdin.take().unwrap(),
        r#"{{"id":"7","type":"{hook}","source":"alpha","payload":{payload}}}"#
    );
    let output = child.wait_with_output().unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        output.status.code(),
        Some(wants.0),
        "{hook} {payload}: {out}"
    );
    assert!(out.contains(wants.1), "{hook} {payload}: {out}");
}

fn hooks(busybox: bool) {
    let dir = tempfile::tempdir().unwrap();
    let Some(path) = path_with(busybox, dir.path()) else {
        return;
    };
    let dir = dir.path();
    check(
        dir,
        &path,
        "notice",
        r#"{"text": "backup $(id) done; 'x'"}"#,
        (0, "alpha says: backup $(id) done; 'x'"),
    );
    check(
        dir,
        &path,
        "notice",
        r#"{"text": "-n a\"b"}"#,
        (0, "alpha says: -n a\n"),
    );
    check(
        dir,
        &path,
        "notice",
        "{\n\"text\"\n:\n\"two lines\"}",
        (0, "alpha says: two lines"),
    );
    check(
        dir,
        &path,
        "notice",
        "null",
        (1, "no payload.text in message 7 from alpha"),
    );
    assert_eq!(
        fs::read_to_string(dir.join("notices.log"))
            .unwrap()
            .lines()
            .count(),
        3
    );

    if which("jq").is_none() {
        println!("left out: there is no jq");
        return;
    }
    fs::create_dir(dir.join("hooks")).unwrap();
    let restart = |payload: &str, status: i32, says: &str| {
        check(dir, &path, "service.restart", payload, (status, says))
    };
    restart(
        r#"{"name": "nginx"}"#,
        1,
        "not in hooks/service.restart.allowed",
    );
    fs::write(dir.join("hooks/service.restart.allowed"), "nginx\nsmbd\n").unwrap();
    restart(r#"{"name": "nginx"}"#, 0, "");
    for foreign in [
        r#""sshd""#,
        r#""""#,
        r#""nginx\nsshd""#,
        r#""nginx;id""#,
        r#"".*""#,
        r#""-h""#,
    ] {
        restart(
            &format!(r#"{{"name": {foreign}}}"#),
            1,
            "not in hooks/service.restart.allowed",
        );
    }
    restart(r#"{"name": 5}"#, 1, "no payload.name");
    restart("null", 1, "no payload.name");
    fs::write(dir.join("refuse"), "").unwrap();
    restart(r#"{"name": "smbd"}"#, 75, "attempt 1");
    assert_eq!(
        fs::read_to_string(dir.join("systemctl.log")).unwrap(),
        "restart -- nginx.service\nrestart -- smbd.service\n"
    );
}

#[test]
fn hooks_run_under_sh() {
    hooks(false);
}

#[test]
fn hooks_run_under_busybox() {
    hooks(true);
}

/// The names of metrics that a file for Prometheus or Grafana uses.
fn metrics_in(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
    text.split(|c| !is_part(c))
        .filter(|word| word.starts_with("mesync_") || word.starts_with("process_"))
        .collect()
}

#[test]
fn dashboard_and_alerts_use_metrics_that_the_hub_has() {
    let hub = Hub::start();
    // most are there only once the hub knows a machine, and one for which a message waits
    let mut machine = hub.world.machine("one");
    machine.start();
    machine.ok(&["send", "note", "--target", "two"]);
    let mut text = String::new();
    wait_for("the hub knows them", &hub.world, || {
        text = String::from_utf8_lossy(&hub.get("/metrics").body).into_owned();
        text.contains("mesync_host_condition{") && text.contains("mesync_oldest_queued_seconds{")
    });
    let known: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    for file in ["mesync-hub.json", "alerts.yml"] {
        let used = fs::read_to_string(root().join("contrib/grafana").join(file)).unwrap();
        let used = metrics_in(&used);
        assert!(used.len() > 3, "{file}: {used:?}");
        let unknown: Vec<_> = used.difference(&known).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
}

/// What procd would be told; its functions only print here.
const PROCD: &str = "procd_open_instance() { :; }; procd_close_instance() { :; }; procd_set_param() { echo \"$*\"; }
. ./mesync.init && start_service && echo \"$USE_PROCD $START $STOP\"";

#[test]
fn the_init_script_of_openwrt_starts_the_client_under_procd() {
    let dir = root().join("contrib/openwrt");
    let sh = which("busybox").map_or(vec!["sh".into()], |b| vec![b, "sh".into()]);
    let mut command = Command::new(&sh[0]);
    let out = command
        .args(&sh[1..])
        .args(["-euc", PROCD])
        .current_dir(&dir)
        .output()
        .unwrap();
    let told = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{told}{out:?}", out = out.stderr);
    let base = "/etc/mesync";
    for line in [
        "command /usr/bin/mesync start",
        &format!("env MESYNC_BASE_DIR={base}"),
        &format!("file {base}/config.toml"),
        "reload_signal HUP",
        "1 95 10",
    ] {
        assert!(told.lines().any(|l| l == line), "{line}: {told}");
    }
    // what an upgrade of the system and of the package keeps is that directory
    assert_eq!(text(&dir.join("mesync.keep")), format!("{base}/\n"));
    let package = text(&dir.join("Makefile"));
    assert!(package.contains(&format!("define Package/mesync/conffiles\n{base}/\nendef")));
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}
