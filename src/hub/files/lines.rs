//! Many changes in one body: for each a line of JSON, then the bytes of a content.
//!
//! Pure except for reading. It bounds its input; whether a name is allowed is decided elsewhere.

use std::io::{self, BufRead, BufReader, Read};

use super::commit::shallow;
use crate::wire::files::{BATCH_FILE, BATCH_FILES, BatchItem};

/// Bytes of a line at most: a name of 1024 bytes, all escaped, and room for the rest.
pub const MAX_LINE: u64 = 16 * 1024;

/// Reads a body file by file.
pub struct Lines<R> {
    reader: BufReader<R>,
    files: usize,
}

/// Why the whole body is refused.
#[derive(Debug)]
pub enum InvalidLine {
    Malformed(String),
    TooMuch(String),
    Unread(io::Error),
}

impl<R: Read> Lines<R> {
    pub fn new(body: R) -> Lines<R> {
        Lines {
            reader: BufReader::with_capacity(64 * 1024, body),
            files: 0,
        }
    }

    /// Reads the next file; `None` after the last.
    pub fn next_file(&mut self) -> Result<Option<(BatchItem, Vec<u8>)>, InvalidLine> {
        let mut line = Vec::new();
        (&mut self.reader)
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)
            .map_err(InvalidLine::Unread)?;
        let of = self.files + 1;
        match line.last() {
            None => return Ok(None),
            Some(b'\n') => {}
            Some(_) if line.len() as u64 == MAX_LINE => {
                return Err(InvalidLine::Malformed(format!(
                    "the line of file {of} is longer than {MAX_LINE} bytes"
                )));
            }
            Some(_) => {
                return Err(InvalidLine::Malformed(format!(
                    "the body ends in the line of file {of}"
                )));
            }
        }
        let item: BatchItem = shallow(&line).map_err(|why| {
            InvalidLine::Malformed(format!("the line of file {of} is invalid: {why}"))
        })?;
        if of > BATCH_FILES {
            return Err(InvalidLine::TooMuch(format!(
                "a batch has at most {BATCH_FILES} files"
            )));
        }
        let size = item.body_bytes();
        if size > BATCH_FILE {
            return Err(InvalidLine::TooMuch(format!(
                "file {of} has {size} bytes; one of a batch has at most {BATCH_FILE}"
            )));
        }
        let mut bytes = Vec::with_capacity(size as usize);
        (&mut self.reader)
            .take(size)
            .read_to_end(&mut bytes)
            .map_err(InvalidLine::Unread)?;
        if (bytes.len() as u64) < size {
            return Err(InvalidLine::Malformed(format!(
                "the body ends in the bytes of file {of}"
            )));
        }
        self.files = of;
        Ok(Some((item, bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn check(body: &str, wants: &str) {
        let mut lines = Lines::new(body.as_bytes());
        let mut got = String::new();
        loop {
            match lines.next_file() {
                Ok(Some((item, bytes))) => {
                    got += &format!("{}={} ", item.name, String::from_utf8(bytes).unwrap())
                }
                Ok(None) => break,
                Err(why) => {
                    got += &format!("{why:?}");
                    break;
                }
            }
        }
        assert!(
            if wants.ends_with(' ') {
                got == wants
            } else {
                got.contains(wants)
            },
            "{body:.300}: {got}"
        );
    }

    #[test]
    fn files_follow_their_lines() {
        let file = |name: &str, size: usize, bytes: &str| {
            format!(
                "{{\"name\":\"{name}\",\"size\":{size},\"checksum_sha256\":\"{HASH}\"}}\n{bytes}"
            )
        };
        check(
            &(file("a", 3, "abc") + &file("b", 0, "") + &file("c", 2, "\n\n")),
            "a=abc b= c=\n\n ",
        );
        check(&file("a", 4, "abc"), "ends in the bytes of file 1");
        check(
            &(file("a", 3, "abc") + "{\"name\""),
            "ends in the line of file 2",
        );
        check("{\"name\":3}\n", "line of file 1 is invalid");
        check(&file("a", 65_537, ""), "at most 65536");
        check(&file("x", 0, "").repeat(1001), "at most 1000 files");
        check(&format!("{:20000}\n", "{"), "longer than 16384");
        check(&format!("{}\n", "[".repeat(9000)), "nested too deeply");
    }
}
