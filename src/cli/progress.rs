//! One line of progress on standard error, for a person at a terminal.
//!
//! It is neither data nor log; errors of writing are ignored.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::output::size;
use crate::clock;
use crate::config::environment;
use crate::transfer::TransferStep;

/// The interval between two updates of the line.
const REDRAW_INTERVAL: Duration = Duration::from_millis(200);

/// The progress of a transfer, which may have several threads.
pub struct Progress {
    shown: bool,
    began: Instant,
    counts: Mutex<ProgressCounts>,
}

#[derive(Default)]
struct ProgressCounts {
    total: u64,
    done: u64,
    /// Bytes transferred, from which the rate is computed.
    moved: u64,
    /// When the first bytes were transferred: the time of hashing before says nothing about the connection.
    moving: Option<Instant>,
    drawn: Option<Instant>,
}

impl ProgressCounts {
    /// Clears the line for other output.
    fn clear(&mut self) {
        if self.drawn.take().is_some() {
            write("\r\x1b[K");
        }
    }
}

/// Whether a person may see the line.
fn is_shown(quiet: bool) -> bool {
    let dumb = environment::variable("TERM").is_none_or(|term| term == "dumb");
    !quiet && !dumb && std::io::stderr().is_terminal()
}

/// The progress of a pass over a directory, whose number of paths is only found during the pass.
pub struct PathProgress {
    shown: bool,
    began: Instant,
    drawn: Cell<bool>,
}

impl PathProgress {
    pub fn new(quiet: bool) -> PathProgress {
        PathProgress {
            shown: is_shown(quiet),
            began: clock::monotonic(),
            drawn: Cell::new(false),
        }
    }

    /// Updates the line.
    pub fn show(&self, done: u64, due: u64, bytes: u64) {
        // a short run shows no line
        if self.shown && self.began.elapsed() >= REDRAW_INTERVAL {
            self.drawn.set(true);
            draw(&paths_line(done, due, bytes, self.began.elapsed()));
        }
    }

    /// Clears the line for other output.
    pub fn clear(&self) {
        if self.drawn.take() {
            write("\r\x1b[K");
        }
    }
}

/// ` 42 %  1200 of 2900 paths  12 MiB  3.4 MiB/s  12 s left`
fn paths_line(done: u64, due: u64, bytes: u64, time: Duration) -> String {
    let (all, seconds) = (done.saturating_add(due), time.as_secs_f64().max(0.001));
    let percent = (u128::from(done) * 100)
        .checked_div(u128::from(all))
        .unwrap_or(0);
    let mut text = format!(
        "{percent:3} %  {done} of {all} paths  {}  {}/s",
        size(bytes),
        size((bytes as f64 / seconds) as u64)
    );
    if done > 0 && time >= Duration::from_secs(1) {
        let left = Duration::from_secs_f64((seconds * due as f64 / done as f64).min(1e9));
        text += &format!("  {} left", clock::age(left));
    }
    text
}

impl Progress {
    pub fn new(quiet: bool) -> Progress {
        Progress {
            shown: is_shown(quiet),
            began: clock::monotonic(),
            counts: Mutex::default(),
        }
    }

    /// Records a step, and updates the line if it is time to.
    pub fn step(&self, step: TransferStep<'_>) {
        let (now, mut counts) = (clock::monotonic(), self.counts());
        match step {
            TransferStep::Expect(bytes) => counts.total = counts.total.saturating_add(bytes),
            TransferStep::Passed(bytes) => {
                counts.moving = counts.moving.or(Some(now));
                counts.done = counts.done.saturating_add(bytes);
                counts.moved = counts.moved.saturating_add(bytes);
            }
            TransferStep::Spared(bytes) => counts.done = counts.done.saturating_add(bytes),
            TransferStep::Lost(bytes) => counts.done = counts.done.saturating_sub(bytes),
            TransferStep::Again(error) => {
                counts.clear();
                log::warn!("{}; retrying", error.what);
            }
        }
        // a short run shows no line
        let due = counts.drawn.unwrap_or(self.began) + REDRAW_INTERVAL;
        if self.shown && now >= due {
            counts.drawn = Some(now);
            let time = counts.moving.map_or(Duration::ZERO, |since| now - since);
            draw(&line(counts.done, counts.total, counts.moved, time));
        }
    }

    /// Clears the line for other output.
    pub fn clear(&self) {
        self.counts().clear();
    }

    fn counts(&self) -> MutexGuard<'_, ProgressCounts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Replaces the line. A longer one than the terminal is wide would be wrapped, and only its end replaced.
fn draw(line: &str) {
    let columns = rustix::termios::tcgetwinsize(std::io::stderr()).map_or(0, |size| size.ws_col);
    write(&format!("\r{}\x1b[K", fit(line, columns.into())));
}

/// The first fields of a line, as many as leave the last column free. 0: the width is not known.
fn fit(line: &str, columns: usize) -> &str {
    let mut fitting = line;
    while columns > 0 && fitting.chars().count() >= columns {
        match fitting.trim_end().rfind("  ") {
            Some(at) if at > 0 => fitting = &fitting[..at],
            _ => return "",
        }
    }
    fitting
}

fn write(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// ` 42 %  1.2 GiB of 3.0 GiB  12 MiB/s  2 min left`
fn line(done: u64, total: u64, moved: u64, time: Duration) -> String {
    let total = total.max(done);
    let percent = (u128::from(done) * 100)
        .checked_div(u128::from(total))
        .unwrap_or(100);
    let mut text = format!("{percent:3} %  {} of {}", size(done), size(total));
    let rate = moved as f64 / time.as_secs_f64().max(0.001);
    // the first second gives no useful rate
    if rate >= 1.0 && time >= Duration::from_secs(1) {
        text += &format!(
            "  {}/s  {} left",
            size(rate as u64),
            clock::age(Duration::from_secs(((total - done) as f64 / rate) as u64))
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_tells_paths_rate_and_time() {
        let check = |done, due, bytes, ms, wants| {
            assert_eq!(
                paths_line(done, due, bytes, Duration::from_millis(ms)),
                wants
            )
        };
        check(0, 0, 0, 0, "  0 %  0 of 0 paths  0 B  0 B/s");
        check(0, 10, 1024, 2000, "  0 %  0 of 10 paths  1.0 KiB  512 B/s");
        check(
            5,
            10,
            2048,
            2000,
            " 33 %  5 of 15 paths  2.0 KiB  1.0 KiB/s  4 s left",
        );
        check(
            1,
            u64::MAX,
            0,
            9000,
            "  0 %  1 of 18446744073709551615 paths  0 B  0 B/s  11574 d left",
        );
    }

    #[test]
    fn a_line_has_the_fields_for_which_the_terminal_has_room() {
        let line = " 33 %  5 of 15 paths  2.0 KiB  1.0 KiB/s  4 s left";
        let check = |columns, wants| assert_eq!(fit(line, columns), wants, "{columns}");
        check(0, line);
        check(80, line);
        check(line.len() + 1, line);
        check(line.len(), " 33 %  5 of 15 paths  2.0 KiB  1.0 KiB/s");
        check(40, " 33 %  5 of 15 paths  2.0 KiB");
        check(10, " 33 %");
        check(3, "");
    }

    #[test]
    fn the_line_tells_bytes_rate_and_time() {
        let check = |done, total, moved, seconds, wants| {
            assert_eq!(
                line(done, total, moved, Duration::from_secs(seconds)),
                wants
            )
        };
        check(0, 0, 0, 0, "100 %  0 B of 0 B");
        check(
            512,
            1024,
            512,
            2,
            " 50 %  512 B of 1.0 KiB  256 B/s  2 s left",
        );
        check(
            3 << 30,
            4 << 30,
            1 << 30,
            8,
            " 75 %  3.0 GiB of 4.0 GiB  128 MiB/s  8 s left",
        );
        check(10, 5, 0, 1, "100 %  10 B of 10 B");
    }
}
