//! A damaged line of `state/seen/DAY` is named; it loses no message, shows none twice, and does not end the client.

use std::path::PathBuf;

use crate::support::world::{Machine, World};

fn log_file(machine: &Machine) -> PathBuf {
    let mut days: Vec<PathBuf> = std::fs::read_dir(machine.base.join("state/seen"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    days.sort();
    days.pop().unwrap()
}

/// Numbers of the messages that a queue has, sorted.
fn numbers(machine: &Machine) -> Vec<u64> {
    let mut numbers: Vec<u64> = machine
        .messages("inbox")
        .iter()
        .map(|message| message["payload"].as_u64().unwrap())
        .collect();
    numbers.sort_unstable();
    numbers
}

fn hooks(machine: &Machine) -> Vec<u64> {
    let text = std::fs::read_to_string(machine.base.join("done")).unwrap_or_default();
    let mut ran: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
    ran.sort_unstable();
    ran
}

fn send(from: &Machine, number: u64) {
    from.ok(&[
        "send",
        "work",
        "--target",
        "m",
        "--payload",
        &number.to_string(),
    ]);
    from.ok(&["start", "--once"]);
}

/// Damages line `n` of five; `hide`: its message is still hidden, as after a crash between log and rename.
fn check(what: &str, n: usize, hide: bool, damage: impl Fn(&mut Vec<u8>)) {
    let mut world = World::new();
    world.start_hub();
    let (m, sender) = (world.machine("m"), world.machine("sender"));
    let number = r#"$(sed -n 's/.*"payload":\([0-9]*\).*/\1/p')"#;
    m.hook(
        "work",
        &format!("echo {number} >>{}", m.base.join("done").display()),
    );
    for number in 1..=5 {
        send(&sender, number);
        m.ok(&["start", "--once"]);
    }
    assert_eq!(
        (numbers(&m), hooks(&m)),
        ((1..=5).collect(), (1..=5).collect())
    );
    let path = log_file(&m);
    let text = std::fs::read(&path).unwrap();
    let mut lines: Vec<Vec<u8>> = text
        .split_inclusive(|b| *b == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    assert_eq!(lines.len(), 5, "{}", String::from_utf8_lossy(&text));
    if hide {
        let id = String::from_utf8_lossy(&lines[n])
            .trim()
            .rsplit(' ')
            .next()
            .unwrap()
            .to_string();
        let name = m
            .names("inbox")
            .into_iter()
            .find(|name| name.contains(&id))
            .unwrap();
        let inbox = m.dir("inbox");
        std::fs::rename(inbox.join(&name), inbox.join(format!(".{name}.tmp"))).unwrap();
    }
    damage(&mut lines[n]);
    std::fs::write(&path, lines.concat()).unwrap();
    send(&sender, 6);
    // the second acknowledges what the first has taken, and finds nothing more
    for pass in 0..3 {
        let out = m.run(&["start", "--once"]);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{what}, pass {pass}: {out:?}");
        assert!(
            said.contains("damaged") && said.contains("state/seen/"),
            "{what}, pass {pass} does not name it: {said}"
        );
    }
    assert_eq!(
        (numbers(&m), hooks(&m)),
        ((1..=6).collect(), (1..=6).collect()),
        "{what}"
    );
    assert!(m.names("failed").is_empty(), "{what}");
}

#[test]
fn a_damaged_line_in_the_middle_loses_and_repeats_nothing() {
    for hide in [false, true] {
        check("letters in the id", 2, hide, |line| line[50..60].fill(b'z'));
        check("zeros", 2, hide, |line| {
            let end = line.len() - 1;
            line[..end].fill(0);
        });
        check("no UTF-8", 2, hide, |line| line[40] = 0xff);
        check("its end is gone", 2, hide, |line| {
            line.pop();
        });
        check("a part is gone", 2, hide, |line| line.truncate(20));
        check("the first", 0, hide, |line| line[3] = b'!');
    }
}

#[test]
fn a_damaged_last_line_loses_and_repeats_nothing() {
    for hide in [false, true] {
        check("letters in the id", 4, hide, |line| line[50..60].fill(b'z'));
        check("no UTF-8", 4, hide, |line| line[40] = 0xff);
    }
}
