//! Clients that know several addresses: here of one hub, as hubs of one bucket are one.

use crate::support::files::Hub;
use crate::support::proxy::Proxy;
use crate::support::tree::Synced;
use crate::support::world::{free_port, wait_for};

#[test]
fn a_daemon_goes_on_with_another_hub_of_its_list() {
    let hub = Hub::start();
    let doors = [Proxy::to(hub.world.port), Proxy::to(hub.world.port)];
    let list = format!("{}, {}/", doors[0].url(), doors[1].url());
    let mut alpha = Synced::new(&hub.world, "alpha");
    let mut beta = Synced::new(&hub.world, "beta");
    beta.machine.url.clone_from(&list);
    alpha.start();
    beta.start();
    let travels = |name: &str| {
        alpha.put(format!("{name}-a"), name);
        beta.put(format!("{name}-b"), name);
        wait_for("both ways", &hub.world, || {
            beta.text(format!("{name}-a")) == name && alpha.text(format!("{name}-b")) == name
        });
    };
    travels("both are up");
    // whichever is its first choice: it leaves that one, and returns to it
    for (round, dead) in [0, 1, 0].into_iter().enumerate() {
        doors[1 - dead].mend();
        doors[dead].cut();
        let passed = doors[1 - dead].up();
        travels(&format!("round {round}"));
        assert!(doors[1 - dead].up() > passed);
        let said = beta.machine.run(&["status", "--json"]).stdout;
        let said: serde_json::Value = serde_json::from_slice(&said).unwrap();
        assert_eq!(said["hub"]["url"], doors[1 - dead].url(), "{said}");
    }
    // neither is up: both are named, and what happens meanwhile is not lost
    doors[1].cut();
    beta.put("meanwhile", "kept");
    let out = beta.machine.run(&["ls"]);
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(69), "{said}");
    for door in &doors {
        assert!(
            said.contains(&format!("cannot reach hub {}:", door.url())),
            "{said}"
        );
    }
    doors[1].mend();
    wait_for("what happened meanwhile", &hub.world, || {
        alpha.text("meanwhile") == "kept"
    });
    alpha.stop();
    beta.stop();
}

#[test]
fn commands_find_the_hub_that_works_wherever_it_stands_in_the_list() {
    let hub = Hub::start();
    let gone = format!("http://127.0.0.1:{}", free_port());
    let here = hub.world.url();
    for (n, list) in [format!("{gone},{here}"), format!("{here},{gone}")]
        .iter()
        .enumerate()
    {
        let mut machine = hub.world.machine(&format!("m{n}"));
        machine.url.clone_from(list);
        let file = hub.world.dir.path().join(format!("f{n}"));
        std::fs::write(&file, format!("of {n}")).unwrap();
        machine.ok(&["upload", file.to_str().unwrap(), "docs/"]);
        machine.ok(&["send", "note", "--target", "m0"]);
        machine.start();
        wait_for("its message", &hub.world, || {
            machine.names("outbox").is_empty() && machine.names("sent").len() == 1
        });
        assert_eq!(machine.stop(), Some(0));
        assert!(machine.ok(&["ls", "docs"]).contains(&format!("f{n}")));
    }
}

#[test]
fn a_list_of_other_servers_is_refused_with_the_reason() {
    let hub = Hub::start();
    let check = |list: &str, status: i32, wants: &str| {
        let mut machine = hub.world.machine("alpha");
        machine.url = list.into();
        let out = machine.run(&["ls"]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(status), "{list}: {said}");
        assert!(said.contains(wants), "{list}: {said}");
    };
    let url = hub.world.url();
    check(&format!("{url},"), 78, "must be a URL");
    check(&format!("{url},{url}/"), 78, "twice");
    check(&format!("{url} {url}"), 78, "must be a URL");
}
