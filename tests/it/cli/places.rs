//! Where the data lies: the home directory, and a filesystem in memory.

use std::path::Path;
use std::process::Command;

use crate::support::program::{Mesync, ran};
use crate::support::world::{World, wait_for};

#[test]
fn a_home_directory_that_cannot_be_used_is_named() {
    let mesync = Mesync::new();
    let mut command = mesync.command(["send", "greeting"]);
    command.env_remove("MESYNC_BASE_DIR").env("HOME", "home");
    ran(&mut command).check(
        78,
        "HOME is not set to an absolute path (set MESYNC_BASE_DIR)",
    );
}

#[test]
fn without_home_the_user_database_names_it_for_all_commands() {
    let id = format!(":{}:", rustix::process::geteuid().as_raw());
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    if !users.lines().any(|line| line.contains(&id)) {
        println!("skipped: this user is not in /etc/passwd");
        return;
    }
    // nothing listens there, so that nothing is saved in the real home directory
    let mesync = Mesync::new();
    let mut command = mesync.command(["login", "--server", "http://127.0.0.1:1"]);
    command
        .env_remove("HOME")
        .env("MESYNC_API_KEY", "0123456789abcdef");
    ran(&mut command).check(69, "cannot reach");
}

#[test]
fn data_in_memory_is_reported_where_it_is_lost_at_a_restart() {
    let dir = Path::new("/dev/shm");
    let is_in_memory = Command::new("stat")
        .args(["-f", "-c", "%T"])
        .arg(dir)
        .output()
        .is_ok_and(|out| out.stdout.starts_with(b"tmpfs"));
    let Some(memory) = tempfile::tempdir_in(dir).ok().filter(|_| is_in_memory) else {
        println!("skipped: /dev/shm is not in memory");
        return;
    };
    let mut world = World::new();
    let hub = memory.path().join("hub").to_str().unwrap().to_string();
    world.hub_env.push(("MESYNC_DATA_DIR".into(), hub));
    world.start_hub();
    let mut machine = world.machine("one");
    machine.env.push((
        "MESYNC_BASE_DIR".into(),
        memory.path().join("base").to_str().unwrap().into(),
    ));
    machine.start();
    wait_for("both say so", &world, || {
        let logs = world.logs();
        logs.contains("the hub's data is in memory")
            && logs.contains("the base directory is in memory")
    });
    assert_eq!(machine.stop(), Some(0));
}
