//! The files of keys and secrets of a hub: where they are made, and what happens when they are lost or damaged.

use std::net::TcpStream;
use std::path::Path;

use crate::support::http::{Conn, PATIENCE};
use crate::support::world::World;

/// The status of `GET /api/hosts` from this machine.
fn hosts(world: &World, lines: &str) -> u16 {
    let mut conn = Conn::new(TcpStream::connect(("127.0.0.1", world.port)).unwrap());
    conn.send(format!(
        "GET /api/hosts HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n"
    ))
    .unwrap();
    conn.answer(PATIENCE).unwrap().status
}

#[test]
fn a_key_is_made_only_where_a_hub_is_and_the_error_names_the_hub_that_runs() {
    let mut world = World::new();
    world.start_hub();
    let other = world.dir.path().join("elsewhere");
    for args in [
        &["key", "add", "web-1"][..],
        &["key", "list"],
        &["key", "remove", "web-1"],
    ] {
        let args = [args, &["--data", other.to_str().unwrap()]].concat();
        let out = world.hub_command().args(&args).output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert_eq!(
            (out.status.code(), out.stdout.len()),
            (Some(78), 0),
            "{args:?}: {said}"
        );
        for part in [
            other.to_str().unwrap(),
            &format!("--data {}", world.hub_dir().display()),
        ] {
            assert!(said.contains(part), "{part} is not in: {said}");
        }
    }
    assert!(!other.exists());
}

/// A file of keys or secrets that was damaged, or lost, never makes a hub more open than it was.
#[test]
fn a_lost_or_empty_file_of_keys_keeps_the_hub_closed() {
    type Damage = fn(&Path);
    let heading = |path: &Path| {
        let text = std::fs::read_to_string(path).unwrap();
        std::fs::write(path, text.lines().next().unwrap()).unwrap();
    };
    let damages: [(&str, Damage); 4] = [
        ("emptied", |path| std::fs::write(path, "").unwrap()),
        ("cut to its heading", heading),
        ("cut within a row", |path| {
            std::fs::File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(150)
                .unwrap()
        }),
        ("removed", |path| std::fs::remove_file(path).unwrap()),
    ];
    for (how, damage) in damages {
        let mut world = World::new();
        world.start_hub();
        let with_key = format!("X-API-Key: {}\r\n", world.hub_ok(&["key", "add", "web-1"]));
        let file = world.hub_dir().join("keys.toml");
        let whole = std::fs::read(&file).unwrap();
        if how != "removed" {
            // before the hub has read the key: what it does not know must not open it
            damage(&file);
            assert_eq!(hosts(&world, ""), 401, "{how}");
            std::fs::write(&file, &whole).unwrap();
        }
        assert_eq!(hosts(&world, &with_key), 200, "{how}");
        damage(&file);
        for _ in 0..2 {
            assert_eq!(hosts(&world, ""), 401, "{how}");
            assert_eq!(hosts(&world, &with_key), 200, "{how}");
        }
        assert!(
            world
                .logs()
                .contains("cannot reload the keys, keeping the old ones"),
            "{how}: {}",
            world.logs()
        );
        // the hub refuses to start open
        world.stop_hub();
        let out = world.hub_command().arg("serve").output().unwrap();
        let said = String::from_utf8(out.stderr).unwrap();
        assert!(
            out.status.code() == Some(78) && said.contains("keys.toml"),
            "{how}: {said}"
        );
        // whole again, it starts and knows the key
        std::fs::write(&file, &whole).unwrap();
        world.start_hub();
        assert_eq!(hosts(&world, &with_key), 200, "{how}");
        assert_eq!(hosts(&world, ""), 401, "{how}");
    }
}
