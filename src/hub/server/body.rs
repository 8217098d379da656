//! The parts of a client's connection that jobs use: they read the body of an upload, or write a download or event stream.
//! Answers are decided elsewhere.

use std::io::{self, Read};

use super::head::Head;
use super::limits::SHORT_BODY;
use super::socket::{Pace, Socket};

/// Bytes of a download that are in memory at a time.
const COPY_BUFFER_BYTES: u64 = 64 * 1024;
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The unread part of a request's body.
#[derive(Debug)]
pub struct UnreadBody {
    left: u64,
    /// The client waits for `100 Continue`.
    expected: bool,
    pace: Pace,
}

impl UnreadBody {
    pub fn new(head: &Head) -> UnreadBody {
        UnreadBody {
            left: head.length,
            expected: head.expect_continue,
            pace: Pace::default(),
        }
    }

    /// The client may still send bytes of this request.
    pub fn unread(&self) -> bool {
        self.left > 0
    }

    /// Reads the whole of a short body.
    pub fn whole(&mut self, socket: &mut Socket) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(self.left.min(SHORT_BODY) as usize);
        self.on(socket).take(SHORT_BODY).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    pub fn on<'a, 's>(&'a mut self, socket: &'a mut Socket<'s>) -> BodyReader<'a, 's> {
        BodyReader { body: self, socket }
    }
}

/// Reads exactly the announced body; an early end is an error.
pub struct BodyReader<'a, 's> {
    body: &'a mut UnreadBody,
    socket: &'a mut Socket<'s>,
}

impl Read for BodyReader<'_, '_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = into
            .len()
            .min(usize::try_from(self.body.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        // a client that has already begun to send does not wait (RFC 9110, 10.1.1)
        if std::mem::take(&mut self.body.expected) && self.socket.buffer.is_empty() {
            self.socket.write_all(CONTINUE, &mut self.body.pace)?;
        }
        match self.socket.read(&mut into[..most], &mut self.body.pace)? {
            0 => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the body ended early",
            )),
            n => {
                self.body.left -= n as u64;
                Ok(n)
            }
        }
    }
}

/// Writes exactly `length` bytes of a download, or fails.
pub fn copy(
    mut reader: Box<dyn Read + Send>,
    length: u64,
    socket: &mut Socket,
    pace: &mut Pace,
) -> io::Result<()> {
    // not on the stack, which is small
    let mut buffer = vec![0; length.min(COPY_BUFFER_BYTES) as usize];
    let mut left = length;
    while left > 0 {
        let most = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        match reader.read(&mut buffer[..most]) {
            Ok(0) => return Err(cut_off("its end came early")),
            Ok(n) => {
                socket.write_all(&buffer[..n], pace)?;
                left -= n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(cut_off(&crate::error::plain(&e))),
        }
    }
    Ok(())
}

fn cut_off(why: &str) -> io::Error {
    log::error!("download aborted: {why}");
    io::Error::other("download aborted")
}
