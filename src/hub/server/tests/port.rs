//! The port that the guard listens on.

use super::*;

#[test]
fn a_busy_port_is_explained() {
    let rig = rig(64);
    let config = config(rig.address, rig._dir.path().into(), 8);
    let e = Guard::start(config, Arc::new(Doorman), Arc::new(|_, _| {})).err().unwrap().to_string();
    assert!(e.contains(": address already in use (is another \"mesync serve\" running?"), "{e}");
    let turns = rig.guard().heartbeat();
    wait_for("the next turn", || rig.guard().heartbeat() > turns);
}
