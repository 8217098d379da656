//! TLS in front of a client's connection: bytes from and to the socket, a record at a time. It knows no certificate and no HTTP.
//!
//! What a stranger may cost is bounded here: bytes before the first that mean something, memory of a session, no resumption
//! that the hub would have to remember.

/// The first byte of a TLS connection (RFC 8446, 5.1: a handshake record); no method of HTTP begins with it.
pub const FIRST_BYTE: u8 = 0x16;
/// Memory of one session: what it holds of records on their way in and out.
pub const SESSION_BYTES: u64 = 64 * 1024;

/// How a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    Plain,
    Tls,
}

#[cfg(feature = "tls")]
mod session {
    use std::io::{self, Read, Write};
    use std::net::TcpStream;
    use std::sync::Arc;

    use rustls::ServerConnection;

    /// Bytes that may come without any of content among them: a handshake, or a long record on its way.
    const MAX_BARREN_BYTES: usize = 32 * 1024;
    /// Bytes of answers that are encrypted and not sent yet.
    const MAX_UNSENT_BYTES: usize = 32 * 1024;

    /// Makes sessions.
    #[derive(Clone)]
    pub struct Acceptor(pub Arc<rustls::ServerConfig>);

    /// One TLS connection, without its socket, which does not block.
    pub struct Session {
        connection: Box<ServerConnection>,
        barren: usize,
        /// Bytes of content that can be read without the socket.
        pending: usize,
    }

    impl Acceptor {
        pub fn session(&self) -> io::Result<Session> {
            let mut connection =
                Box::new(ServerConnection::new(Arc::clone(&self.0)).map_err(io::Error::other)?);
            connection.set_buffer_limit(Some(MAX_UNSENT_BYTES));
            Ok(Session {
                connection,
                barren: 0,
                pending: 0,
            })
        }
    }

    impl Session {
        pub fn is_handshaking(&self) -> bool {
            self.connection.is_handshaking()
        }

        pub fn is_pending(&self) -> bool {
            self.pending > 0
        }

        pub fn is_unsent(&self) -> bool {
            self.connection.wants_write()
        }

        /// Takes one step of reading: `WouldBlock` also when what came was no content. 0: the other side has closed.
        pub fn read(&mut self, mut stream: &TcpStream, into: &mut [u8]) -> io::Result<usize> {
            match self.content(into) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            self.flush(stream)?;
            self.barren += self.connection.read_tls(&mut stream)?;
            match self.connection.process_new_packets() {
                Ok(state) => self.pending = state.plaintext_bytes_to_read(),
                Err(e) => {
                    // the alert that says why
                    let _ = self.flush(stream);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, e));
                }
            }
            self.flush(stream)?;
            let got = self.content(into);
            if self.barren > MAX_BARREN_BYTES {
                let words = "too many bytes of TLS without content";
                return Err(io::Error::new(io::ErrorKind::InvalidData, words));
            }
            got
        }

        fn content(&mut self, into: &mut [u8]) -> io::Result<usize> {
            match self.connection.reader().read(into) {
                Ok(n) => {
                    self.pending = self.pending.saturating_sub(n);
                    self.barren = 0;
                    Ok(n)
                }
                // closed without a word: HTTP knows by itself whether something is missing
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
                Err(e) => Err(e),
            }
        }

        /// How many bytes were taken, and how many went to the other side, perhaps of earlier ones.
        pub fn write(&mut self, stream: &TcpStream, bytes: &[u8]) -> io::Result<(usize, usize)> {
            let taken = self.connection.writer().write(bytes)?;
            match self.flush(stream)? {
                0 if taken == 0 => Err(io::ErrorKind::WouldBlock.into()),
                sent => Ok((taken, sent)),
            }
        }

        /// Sends what is waiting, as far as the socket takes it.
        fn flush(&mut self, mut stream: &TcpStream) -> io::Result<usize> {
            let mut sent = 0;
            while self.connection.wants_write() {
                match self.connection.write_tls(&mut stream) {
                    Ok(n) => sent += n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    Err(e) => return Err(e),
                }
            }
            Ok(sent)
        }

        /// Tells the other side that this is the end, and not a cut.
        pub fn close(&mut self, stream: &TcpStream) {
            self.connection.send_close_notify();
            let _ = self.flush(stream);
        }
    }
}

#[cfg(not(feature = "tls"))]
mod session {
    use std::io;
    use std::net::TcpStream;

    /// There is no TLS in this build.
    #[derive(Clone)]
    pub enum Acceptor {}
    pub enum Session {}

    impl Acceptor {
        pub fn session(&self) -> io::Result<Session> {
            match *self {}
        }
    }

    impl Session {
        pub fn is_handshaking(&self) -> bool {
            match *self {}
        }

        pub fn is_pending(&self) -> bool {
            match *self {}
        }

        pub fn is_unsent(&self) -> bool {
            match *self {}
        }

        pub fn read(&mut self, _: &TcpStream, _: &mut [u8]) -> io::Result<usize> {
            match *self {}
        }

        pub fn write(&mut self, _: &TcpStream, _: &[u8]) -> io::Result<(usize, usize)> {
            match *self {}
        }

        pub fn close(&mut self, _: &TcpStream) {
            match *self {}
        }
    }
}

pub use session::{Acceptor, Session};
