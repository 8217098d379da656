//! Standard output: lines, aligned tables, JSON, sizes and times.
//!
//! A command writes without checking errors, so that a closed output does not interrupt its work. [`Output::finish`] reports at
//! the end whether everything was written. The log is elsewhere.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;

use serde::Serialize;

use super::CommandEnd;
use crate::config::environment;
use crate::error::{Error, Result};
use crate::logger::disturbs;

/// Help is wrapped at this width, or at that of a narrower terminal.
const MAX_WIDTH: usize = 80;
/// A terminal that says that it is narrower does not know its width.
const MIN_WIDTH: usize = 20;

/// Cells up to this width are aligned: an id and some more.
const MAX_COLUMN_WIDTH: usize = 40;

/// Standard output, and the form of data.
pub struct Output {
    writer: BufWriter<Box<dyn Write>>,
    failed: Option<io::Error>,
    /// JSON instead of tables.
    pub json: bool,
    /// Exact sizes.
    pub bytes: bool,
    color: bool,
    /// The width at which text is wrapped.
    pub width: usize,
}

/// The error of a write to standard output that failed. A closed pipe is none.
pub fn failure(e: &io::Error) -> Option<Error> {
    (e.kind() != io::ErrorKind::BrokenPipe).then(|| Error::io("write to standard output", e))
}

impl Output {
    pub fn stdout(json: bool, bytes: bool) -> Output {
        // an empty NO_COLOR does not count (no-color.org)
        let plain = environment::variable("NO_COLOR").is_some_and(|v| !v.is_empty())
            || environment::variable("TERM").is_some_and(|v| v == "dumb");
        let color = !plain && !json && io::stdout().is_terminal();
        Output {
            writer: BufWriter::new(Box::new(io::stdout())),
            failed: None,
            json,
            bytes,
            color,
            width: width_of(io::stdout()),
        }
    }

    pub fn text(&mut self, text: &str) {
        if self.failed.is_none() {
            self.failed = self.writer.write_all(text.as_bytes()).err();
        }
    }

    pub fn line(&mut self, text: &str) {
        self.text(text);
        self.text("\n");
    }

    /// Writes words as [`wrap`] does.
    pub fn wrapped<'a>(&mut self, lead: &str, words: impl Iterator<Item = &'a str>) {
        self.text(&wrap(lead, words, self.width));
    }

    /// Writes one object on one line.
    pub fn object(&mut self, object: &impl Serialize) {
        match serde_json::to_string(object) {
            // `layout` removes line ends that a payload may contain
            Ok(text) => self.line(&layout(&text, None)),
            Err(e) => self.failed = self.failed.take().or(Some(e.into())),
        }
    }

    /// Writes columns under their titles, as wide as needed; nothing without rows. A very wide cell, such as the name of a file
    /// that is no message, is complete but shifts only its own line.
    pub fn table(&mut self, titles: &[Column], rows: &[Vec<String>]) {
        if rows.is_empty() {
            return;
        }
        let cells = |i: usize| {
            rows.iter()
                .map(move |r| r[i].chars().count())
                .filter(|width| *width <= MAX_COLUMN_WIDTH)
        };
        let width = |i: usize| cells(i).chain([titles[i].title.len()]).max().unwrap_or(0);
        let widths: Vec<usize> = (0..titles.len()).map(width).collect();
        let row = |cells: &[&str]| {
            let mut line = String::new();
            for ((cell, width), column) in cells.iter().zip(&widths).zip(titles) {
                if !line.is_empty() {
                    line.push_str("  ");
                }
                line.push_str(&if column.right {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:width$}")
                });
            }
            line.trim_end().to_string()
        };
        let head = row(&titles.iter().map(|c| c.title).collect::<Vec<_>>());
        let head = self.bold(&head);
        self.line(&head);
        for cells in rows {
            let line = row(&cells.iter().map(String::as_str).collect::<Vec<_>>());
            self.line(&line);
        }
    }

    pub fn bold(&self, text: &str) -> String {
        if self.color {
            format!("\x1b[1m{text}\x1b[0m")
        } else {
            text.to_string()
        }
    }

    /// `1234` with `--bytes`, else `1.2 KiB`.
    pub fn size(&self, bytes: u64) -> String {
        if self.bytes {
            bytes.to_string()
        } else {
            size(bytes)
        }
    }

    /// Clears the screen of a terminal.
    pub fn begin_picture(&mut self) {
        if self.color {
            self.text("\x1b[H\x1b[2J");
        }
    }

    /// Writes the buffered output, before a command waits.
    pub fn flush(&mut self) {
        if self.failed.is_none() {
            self.failed = self.writer.flush().err();
        }
    }

    /// The output is closed or cannot be written: work that only produces output may end.
    pub fn is_over(&self) -> bool {
        self.failed.is_some()
    }

    /// Ends the output: returns the command's error, or else that of the output.
    pub fn finish(mut self, done: Result<CommandEnd>) -> Result<CommandEnd> {
        self.flush();
        let written = self.failed.as_ref().and_then(failure).map_or(Ok(()), Err);
        done.and_then(|done| written.map(|()| done))
    }

    /// Output that a test can read.
    #[cfg(test)]
    pub fn memory() -> (Output, std::sync::Arc<std::sync::Mutex<Vec<u8>>>) {
        struct Shared(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
        impl Write for Shared {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let text = std::sync::Arc::default();
        let writer =
            BufWriter::new(Box::new(Shared(std::sync::Arc::clone(&text))) as Box<dyn Write>);
        (
            Output {
                writer,
                failed: None,
                json: false,
                bytes: false,
                color: false,
                width: MAX_WIDTH,
            },
            text,
        )
    }
}

/// A column of a table.
pub struct Column {
    title: &'static str,
    right: bool,
}

pub const fn left(title: &'static str) -> Column {
    Column {
        title,
        right: false,
    }
}

/// A right-aligned column, for numbers.
pub const fn right(title: &'static str) -> Column {
    Column { title, right: true }
}

/// `17 B`, `1.2 KiB`, `34 MiB`: at least two digits, powers of 1024.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    // 1023.96 would be rounded to 1024.0
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ if value < 9.95 => format!("{value:.1} {}", UNITS[unit]),
        _ => format!("{value:.0} {}", UNITS[unit]),
    }
}

/// The width at which text for this output is wrapped.
pub fn width_of(output: impl AsFd) -> usize {
    match rustix::termios::tcgetwinsize(output) {
        Ok(size) if usize::from(size.ws_col) >= MIN_WIDTH => MAX_WIDTH.min(size.ws_col.into()),
        _ => MAX_WIDTH,
    }
}

/// Wraps words to lines of at most `width` columns: the first begins with `lead`, the others are indented to its end.
pub fn wrap<'a>(lead: &str, words: impl Iterator<Item = &'a str>, width: usize) -> String {
    let indent = lead.chars().count();
    let (mut out, mut column) = (lead.to_string(), indent);
    for word in words {
        let letters = word.chars().count();
        if column > indent && column + 1 + letters > width {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            column = indent;
        } else if column > indent {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += letters;
    }
    out.push('\n');
    out
}

/// Formats JSON on one line, or with each member on its own line. Values are unchanged, including the digits of numbers and
/// the order of members. Characters that would disturb a terminal are written as `\uXXXX`.
pub fn layout(json: &str, indent: Option<usize>) -> String {
    let mut out = String::with_capacity(json.len());
    let mut depth = 0usize;
    let line = |out: &mut String, depth: usize| {
        if let Some(indent) = indent {
            out.push('\n');
            // a message can be nested so deeply that the indentation alone would fill the memory
            out.extend(std::iter::repeat_n(' ', indent * depth.min(40)));
        }
    };
    let mut letters = json.chars().peekable();
    while let Some(c) = letters.next() {
        match c {
            '"' => {
                out.push('"');
                while let Some(c) = letters.next() {
                    match c {
                        '\\' => {
                            out.push('\\');
                            out.extend(letters.next());
                        }
                        c if disturbs(c) => out.push_str(&format!("\\u{:04x}", c as u32)),
                        c => out.push(c),
                    }
                    if c == '"' {
                        break;
                    }
                }
            }
            ' ' | '\t' | '\n' | '\r' => {}
            '{' | '[' => {
                out.push(c);
                while letters.next_if(|c| c.is_ascii_whitespace()).is_some() {}
                if let Some(end) = letters.next_if(|c| matches!(c, '}' | ']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(',');
                line(&mut out, depth);
            }
            ':' if indent.is_some() => out.push_str(": "),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_two_digits_and_a_unit() {
        let check = |bytes, wants| assert_eq!(size(bytes), wants);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1024, "1.0 KiB");
        check(10_188, "9.9 KiB");
        check(10_189, "10 KiB");
        check(1_048_575, "1.0 MiB");
        check(u64::MAX, "16384 PiB");
    }

    #[test]
    fn json_is_laid_out_without_a_change_of_value() {
        let check = |json, indent, wants: &str| assert_eq!(layout(json, indent), wants);
        check(
            "{ \"a\" : [1.10, {}, [ ]],\n\"b\":\"x: {\\\"y\\\"}\" }",
            None,
            r#"{"a":[1.10,{},[]],"b":"x: {\"y\"}"}"#,
        );
        check(
            r#"{"a":[1,2],"b":{}}"#,
            Some(2),
            "{\n  \"a\": [\n    1,\n    2\n  ],\n  \"b\": {}\n}",
        );
        check(
            "\"\u{9b}31m\u{202e}é\\\\\"",
            None,
            "\"\\u009b31m\\u202eé\\\\\"",
        );
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert!(layout(&deep, Some(2)).len() < 20_000_000);
    }

    #[test]
    fn tables_align_and_nothing_is_nothing() {
        let (mut out, text) = Output::memory();
        out.table(&[left("A"), right("SIZE")], &[]);
        out.table(
            &[left("A"), right("SIZE"), left("B")],
            &[
                vec!["é".into(), "1".into(), "".into()],
                vec!["bb".into(), "12".into(), "x".into()],
            ],
        );
        out.finish(Ok(CommandEnd::All)).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&text.lock().unwrap()),
            "A   SIZE  B\né      1\nbb    12  x\n"
        );
    }
}
