//! A machine whose key may read files only: it follows the others, keeps its own changes, and says why they are not sent.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::files::{Hub, form};
use crate::support::tree::Synced;
use crate::support::world::wait_for;

#[test]
fn a_read_only_machine_follows_the_others_and_keeps_its_own_changes() {
    let hub = Hub::start();
    let key = hub.world.dir.path().join("alpha.key");
    fs::write(
        &key,
        hub.world.hub_ok(&["key", "add", "alpha", "--read-only"]),
    )
    .unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let local = fs::read_to_string(hub.world.hub_dir().join("local.key")).unwrap();
    let upload = |name: &str, content: &str| {
        let (kind, body) = form("", name, content.as_bytes());
        let lines = format!("{kind}X-API-Key: {}\r\n", local.trim());
        hub.ask("PUT", "/api/files/upload", &lines, body)
    };
    upload("first", "of the hub").is(201, "");
    let mut alpha = Synced::new(&hub.world, "alpha");
    let variable = ("MESYNC_API_KEY_FILE".into(), key.to_str().unwrap().into());
    alpha.machine.env.push(variable);
    alpha.start();
    wait_for("the first file", &hub.world, || alpha.has("first"));
    // changed, made and deleted here
    alpha.put("mine", "made here");
    alpha.put("first", "changed here");
    wait_for("both are named", &hub.world, || {
        let status = alpha.status().to_string();
        ["mine", "first", "mesync key set alpha --read-write"]
            .iter()
            .all(|part| status.contains(part))
    });
    // one refused change holds nothing up
    upload("second", "later").is(201, "");
    wait_for("the second file", &hub.world, || alpha.has("second"));
    assert_eq!(
        (alpha.text("mine"), alpha.text("first")),
        ("made here".into(), "changed here".into())
    );
    // a change of another machine at the same path: both are kept
    upload("first", "of the hub again").is(200, "");
    wait_for(
        "the hub's content and a copy of the own one",
        &hub.world,
        || {
            alpha.text("first") == "of the hub again"
                && alpha
                    .contents("first")
                    .contains(&"changed here".to_string())
        },
    );
    let list = hub.ask(
        "GET",
        "/api/files",
        &format!("X-API-Key: {}\r\n", local.trim()),
        "",
    );
    assert_eq!(list.header("x-total-count"), Some("2"), "{list}");
    // with the right, all is sent
    alpha.stop();
    hub.world.hub_ok(&["key", "set", "alpha", "--read-write"]);
    alpha.pass();
    let list = hub.ask(
        "GET",
        "/api/files",
        &format!("X-API-Key: {}\r\n", local.trim()),
        "",
    );
    assert!(list.is(200, "mine").header("x-total-count") == Some("4"));
}
