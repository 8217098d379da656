//! HTTP by hand, with a deadline on everything: what an attacker sends, and what a client waits for.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// For responses whose speed is not tested.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A connection, plain or encrypted.
pub enum Wire {
    Plain(TcpStream),
    #[cfg(feature = "tls")]
    #[allow(dead_code)] // for the attacks
    Encrypted(Box<super::tls::Encrypted>),
}

impl Wire {
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Wire::Plain(stream) => stream,
            #[cfg(feature = "tls")]
            Wire::Encrypted(stream) => &stream.sock,
        }
    }
}

impl From<TcpStream> for Wire {
    fn from(stream: TcpStream) -> Wire {
        Wire::Plain(stream)
    }
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.read(into),
            #[cfg(feature = "tls")]
            Wire::Encrypted(stream) => stream.read(into),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.write(bytes),
            #[cfg(feature = "tls")]
            Wire::Encrypted(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Wire::Plain(stream) => stream.flush(),
            #[cfg(feature = "tls")]
            Wire::Encrypted(stream) => stream.flush(),
        }
    }
}

pub struct Conn {
    pub stream: Wire,
    /// What was read and not yet taken.
    pub buffer: Vec<u8>,
}

#[derive(Debug)]
pub struct Got {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Conn {
    pub fn new(stream: impl Into<Wire>) -> Conn {
        Conn {
            stream: stream.into(),
            buffer: Vec::new(),
        }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    pub fn ask(&mut self, request: &str, within: Duration) -> io::Result<Got> {
        self.send(request)?;
        self.answer(within)
    }

    /// The next answer, whole.
    pub fn answer(&mut self, within: Duration) -> io::Result<Got> {
        let until = Instant::now() + within;
        let got = self.head(until)?;
        let body = self.body(&got, until)?;
        Ok(Got {
            body: String::from_utf8(body).unwrap(),
            ..got
        })
    }

    /// The body that this head announces.
    pub fn body(&mut self, head: &Got, until: Instant) -> io::Result<Vec<u8>> {
        let length = head
            .header("content-length")
            .map_or(0, |n| n.parse().unwrap());
        while self.buffer.len() < length {
            self.more(until)?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// A line without its end: of an event stream.
    pub fn line(&mut self, until: Instant) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(String::from_utf8(line[..end].to_vec()).unwrap());
            }
            self.more(until)?;
        }
    }

    /// The head of the next answer: all that an event stream has of one.
    pub fn head(&mut self, until: Instant) -> io::Result<Got> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = String::from_utf8(self.buffer.drain(..end + 4).collect()).unwrap();
                return Ok(Got {
                    status: head[9..12].parse().unwrap(),
                    head,
                    body: String::new(),
                });
            }
            self.more(until)?;
        }
    }

    /// Reads what has arrived, or waits for it.
    pub fn more(&mut self, until: Instant) -> io::Result<()> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.tcp().set_read_timeout(Some(left))?;
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                self.buffer.extend_from_slice(&piece[..n]);
                Ok(())
            }
            // a signal; callers read until they have enough
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Ends the connection with a reset instead of a close.
    pub fn reset(self) {
        rustix::net::sockopt::set_socket_linger(self.stream.tcp(), Some(Duration::ZERO)).unwrap();
    }
}

impl Got {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

/// A request; `lines` are more headers, each with its line end.
pub fn request(method: &str, target: &str, lines: &str, body: &str) -> String {
    let length = if body.is_empty() && method == "GET" {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    format!("{method} {target} HTTP/1.1\r\nHost: hub\r\n{lines}{length}\r\n{body}")
}

/// A message as JSON, with an id of its own.
pub fn message(source: &str, target: &str, payload: &str) -> String {
    let id = uuid::Uuid::now_v7();
    format!(
        r#"{{"id":"{id}","type":"x","source":"{source}","target":"{target}","payload":"{payload}"}}"#
    )
}
