//! SIGHUP: client and hub read their settings again, work with them, and keep the old ones if there is a mistake.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use crate::support::world::{Machine, World, wait_for};
use rustix::process::{Pid, Signal, kill_process};

fn hang_up(pid: u32) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::HUP).unwrap();
}

fn configure(machine: &Machine, text: &str) {
    std::fs::create_dir_all(&machine.base).unwrap();
    std::fs::write(machine.base.join("config.toml"), text).unwrap();
}

fn watch(dirs: &[(&PathBuf, &str)]) -> String {
    dirs.iter()
        .map(|(dir, remote)| {
            format!(
                "[[watch]]\npath = '{}'\nremote = '{remote}'\ndebounce_ms = 50\n",
                dir.display()
            )
        })
        .collect()
}

fn dir(world: &World, name: &str) -> PathBuf {
    let dir = world.dir.path().join(name);
    std::fs::create_dir(&dir).unwrap();
    dir
}

fn on_hub(machine: &Machine, name: &str) -> bool {
    machine
        .ok(&["ls", "--all"])
        .lines()
        .any(|line| line.ends_with(&format!("  {name}")))
}

#[test]
fn a_client_works_with_other_settings_after_a_hangup() {
    let mut world = World::new();
    world.start_hub();
    let (mut m, asker) = (world.machine("m"), world.machine("asker"));
    let (a, b, c) = (dir(&world, "a"), dir(&world, "b"), dir(&world, "c"));
    // a hook that runs over all of it
    configure(&m, "poll_interval = 1\n");
    let at = |name: &str| m.base.join(name);
    let (began, go, ended) = (at("began"), at("go"), at("ended"));
    m.hook(
        "long",
        &format!(
            "echo x >>{}; read -r line <{}; echo x >>{}",
            began.display(),
            go.display(),
            ended.display()
        ),
    );
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&go)
            .status()
            .unwrap()
            .success()
    );
    m.start();
    m.ok(&["send", "long", "--target", "m"]);
    wait_for("the hook runs", &world, || began.exists());

    std::fs::write(a.join("one"), "1").unwrap();
    configure(&m, &watch(&[(&a, "a")]));
    hang_up(m.pid());
    wait_for("the first directory is synced", &world, || {
        on_hub(&asker, "a/one")
    });
    std::fs::write(b.join("two"), "2").unwrap();
    configure(&m, &watch(&[(&a, "a"), (&b, "b")]));
    hang_up(m.pid());
    wait_for("another one is synced beside it", &world, || {
        on_hub(&asker, "b/two")
    });

    // a mistake, with its line
    configure(&m, &format!("{}rescn = 5\n", watch(&[(&c, "c")])));
    std::fs::write(c.join("three"), "3").unwrap();
    hang_up(m.pid());
    wait_for("the mistake is named", &world, || {
        m.log().contains("keeping the old ones")
            && m.log()
                .contains("config.toml, line 5: there is no setting \"rescn\"")
    });
    std::fs::write(b.join("four"), "4").unwrap();
    wait_for("the old settings stay", &world, || on_hub(&asker, "b/four"));

    // without the first; its process lets it go
    configure(&m, &watch(&[(&b, "b"), (&c, "c")]));
    hang_up(m.pid());
    wait_for("a third is synced", &world, || on_hub(&asker, "c/three"));
    wait_for("the first is let go", &world, || {
        m.log()
            .contains(&format!("stopped syncing dir={}", a.display()))
    });
    std::fs::write(a.join("late"), "x").unwrap();
    std::fs::write(b.join("five"), "5").unwrap();
    wait_for("the second is still synced", &world, || {
        on_hub(&asker, "b/five")
    });
    assert!(!on_hub(&asker, "a/late"));

    // other values of everything: messages and directories go on
    configure(
        &m,
        &format!(
            "http_timeout = 7\npoll_interval = 2\nsent_ttl = 50\nhook_timeout = 600\n{}",
            watch(&[(&b, "b")])
        ),
    );
    hang_up(m.pid());
    m.ok(&["send", "x", "--target", "m"]);
    wait_for("a message arrives", &world, || {
        m.messages("inbox")
            .iter()
            .any(|message| message["type"] == "x")
    });
    configure(&m, "host_id = 'other'\nhook_jobs = 9\n");
    m.env.retain(|(name, _)| name != "MESYNC_HOST_ID");
    hang_up(m.pid());
    wait_for("what needs a restart is said", &world, || {
        m.log()
            .contains("hook_jobs has changed: restart the client")
    });

    // its commands use the name that it uses, whatever their settings say by now
    m.env.push(("MESYNC_HOST_ID".into(), "other".into()));
    m.ok(&["send", "named", "--target", "m"]);
    wait_for("the message arrives", &world, || {
        m.messages("inbox")
            .iter()
            .any(|message| message["type"] == "named")
    });
    let source = m
        .messages("inbox")
        .iter()
        .find(|message| message["type"] == "named")
        .unwrap()["source"]
        .clone();
    assert_eq!(source, "m");
    let status: serde_json::Value =
        serde_json::from_slice(&m.command(&["status", "--json"]).output().unwrap().stdout).unwrap();
    assert_eq!(
        (&status["host"], &status["client"], &status["hub"]["queued"]),
        (&"m".into(), &m.pid().to_string().into(), &0.into())
    );

    // the hook has lived through all of it, and ran once
    assert!(!m.log().contains("killed") && m.is_running());
    std::fs::write(&go, "on\n").unwrap();
    wait_for("the hook comes to its end", &world, || ended.exists());
    assert_eq!(
        std::fs::read_to_string(&began).unwrap(),
        "x\n",
        "{}",
        m.log()
    );
    assert_eq!(m.stop(), Some(0));
    let status: serde_json::Value =
        serde_json::from_slice(&m.command(&["status", "--json"]).output().unwrap().stdout).unwrap();
    assert_eq!(
        (&status["host"], &status["client"]),
        (&"other".into(), &serde_json::Value::Null)
    );
}

#[test]
fn a_client_moves_to_another_hub_and_stays_where_it_is_if_that_cannot_be() {
    let (mut world, mut other) = (World::new(), World::new());
    world.start_hub();
    other.start_hub();
    let mut m = world.machine("m");
    configure(
        &m,
        &format!("server_url = '{}'\npoll_interval = 1\n", world.url()),
    );
    let mut start = m.command(&["start", "-v"]);
    start.env_remove("MESYNC_SERVER_URL");
    m.spawn(start);
    m.ok(&["send", "x", "--target", "m"]);
    wait_for("a message arrives by the first hub", &world, || {
        m.names("inbox").len() == 1
    });

    configure(
        &m,
        &format!("server_url = '{}'\nca_file = '/nowhere'\n", other.url()),
    );
    hang_up(m.pid());
    wait_for("what cannot be used is named", &world, || {
        m.log()
            .contains("cannot apply the new settings, keeping the old ones")
    });
    m.ok(&["send", "x", "--target", "m"]);
    wait_for("a message arrives by the first hub", &world, || {
        m.names("inbox").len() == 2
    });

    configure(&m, &format!("server_url = '{}'\n", other.url()));
    hang_up(m.pid());
    world.stop_hub();
    m.ok(&["send", "x", "--target", "m"]);
    wait_for("a message arrives by the other hub", &world, || {
        m.names("inbox").len() == 3
    });
    assert_eq!(m.stop(), Some(0));
}

#[test]
fn a_hub_works_with_other_limits_after_a_hangup_and_tells_the_service_manager() {
    let mut world = World::new();
    let base = world.dir.path().join("hub-base");
    std::fs::create_dir_all(&base).unwrap();
    let configure = |text: &str| std::fs::write(base.join("config.toml"), text).unwrap();
    configure("[hub]\nmax_upload = '8MB'\n");
    let socket = world.dir.path().join("notify");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager
        .set_read_timeout(Some(std::time::Duration::from_secs(60)))
        .unwrap();
    let hear = || {
        let mut text = [0; 200];
        let n = manager.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..n]).into_owned()
    };
    world
        .hub_env
        .push(("NOTIFY_SOCKET".into(), socket.to_str().unwrap().into()));
    world.start_hub();
    assert_eq!(hear(), "READY=1");
    let m = world.machine("m");
    let long = world.dir.path().join("long");
    std::fs::write(&long, vec![7; 3_000_000]).unwrap();
    let long = long.to_str().unwrap();
    m.ok(&["upload", long]);

    configure("[hub]\nmax_upload = '2MB'\nworkers = 3\n");
    hang_up(world.hub_pid());
    let said = hear();
    let at = said
        .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
        .and_then(|n| n.parse::<u64>().ok());
    assert!(at.is_some_and(|at| at > 0), "{said}");
    assert_eq!(hear(), "READY=1");
    assert!(
        world
            .logs()
            .contains("[hub] workers has changed: restart the hub to use it"),
        "{}",
        world.logs()
    );
    m.ok(&["rm", "long"]);
    let refused = m.run(&["upload", long]);
    assert!(
        !refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("too long"),
        "{refused:?}"
    );

    configure("[hub]\nmax_upload = '9MB'\nqueue_messages = 0\n");
    hang_up(world.hub_pid());
    assert!(hear().starts_with("RELOADING=1"));
    assert_eq!(hear(), "READY=1");
    assert!(
        world
            .logs()
            .contains("line 3: queue_messages: must be a whole number"),
        "{}",
        world.logs()
    );
    assert!(
        !m.run(&["upload", long]).status.success(),
        "half of a mistake was taken"
    );
    configure("[hub]\nmax_upload = '9MB'\n");
    hang_up(world.hub_pid());
    assert!(hear().starts_with("RELOADING=1"));
    assert_eq!(hear(), "READY=1");
    m.ok(&["upload", long]);
}
