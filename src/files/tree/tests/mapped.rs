//! Writes through a shared mapping by a program that keeps the file mapped: xfs_io of xfsprogs.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::*;

/// A program with a mapping of a file.
struct Mapped {
    program: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Mapped {
    fn of(path: &Path) -> Option<Mapped> {
        let piped = Command::new("stdbuf")
            .args(["-oL", "xfs_io"])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut program = piped.ok()?;
        let (input, output) = (program.stdin.take(), BufReader::new(program.stdout.take()?));
        let mut mapped = Mapped {
            program,
            input,
            output,
        };
        mapped.run("mmap -rw 0 4096").then_some(mapped)
    }

    /// Runs a command and waits for its end; `false`: the program has ended.
    fn run(&mut self, command: &str) -> bool {
        let mut line = String::new();
        let written = writeln!(self.input.as_mut().unwrap(), "{command}\nprint");
        // "print" lists the open file and the mapping
        while written.is_ok() && !line.contains("(0 : 4096)") {
            line.clear();
            if self.output.read_line(&mut line).unwrap_or(0) == 0 {
                return false;
            }
        }
        written.is_ok()
    }

    fn write(&mut self, byte: u8) {
        assert!(
            self.run(&format!("mwrite -S {byte} 0 4096")),
            "xfs_io ended"
        );
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.program.wait();
    }
}

fn page(byte: u8) -> Hash {
    Hash::of(&[byte; 4096])
}

#[test]
fn a_write_through_a_mapping_after_an_examination_shows_a_new_stamp() {
    let w = world();
    fs::write(w.at("a"), [0; 4096]).unwrap();
    let Some(mut mapped) = Mapped::of(&w.at("a")) else {
        println!("SKIPPED: xfs_io (xfsprogs) is needed to write through a mapping");
        return;
    };
    // more files than are synced one by one
    for byte in 1..30 {
        mapped.write(byte);
        let first = w.local("a");
        assert_eq!(first.entry.hash, page(byte));
        mapped.write(byte + 100);
        let known = (&first.stamp, &first.entry);
        let Ok(Presence::Here(now)) = w.tree.examine("a", Some(known)) else {
            panic!()
        };
        assert_eq!(now.entry.hash, page(byte + 100), "{byte}");
    }
}

#[test]
fn without_exchange_a_write_that_left_no_stamp_is_not_replaced() {
    let w = world();
    w.tree.exchange.store(false, Relaxed);
    w.write("a", "old");
    let old = w.local("a");
    let unseen = LocalEntry {
        entry: entry("what it was before"),
        ..old
    };
    assert_eq!(
        w.tree.place("a", &w.staged("a", "new"), Some(&unseen)),
        Ok(RenameOutcome::Changed)
    );
    assert_eq!(w.text("a"), "old");
    assert_eq!(
        w.tree.place("a", &w.staged("a", "new"), Some(&old)),
        Ok(RenameOutcome::Done)
    );
}
