//! The port that the server listens on.

use super::*;

#[test]
fn a_busy_port_is_explained() {
    let rig = rig(64);
    let config = config(rig.address, rig._dir.path().into(), 8);
    let e = Server::start(config, Arc::new(Doorman), Arc::new(|_, _| {}))
        .err()
        .unwrap()
        .to_string();
    assert!(
        e.contains(": address already in use (is another \"mesync serve\" running?"),
        "{e}"
    );
    let turns = rig.server().heartbeat();
    wait_for("the next turn", || rig.server().heartbeat() > turns);
}
