//! TLS below a client's connection: encrypts and decrypts, a record at a time. It knows no certificate and no HTTP.
//!
//! The cost of an unknown client is bounded here: bytes before the first content, memory of a session, and no resumption,
//! which the hub would have to remember.

/// The first byte of a TLS connection (RFC 8446, 5.1: a handshake record); no method of HTTP begins with it.
pub const FIRST_BYTE: u8 = 0x16;
/// Bytes of memory of one session: records that are being received and sent.
pub const SESSION_BYTES: u64 = 64 * 1024;

/// How a request was received.
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

    /// Bytes that may arrive without content: a handshake, or an incomplete record.
    const MAX_BARREN_BYTES: usize = 32 * 1024;
    /// Bytes of answers that are encrypted and not yet sent.
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

        /// Reads once. `WouldBlock`: also if only records without content arrived. 0: the peer has closed.
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
                    // send the alert with the reason
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
                // closed without an alert: HTTP detects a truncated body by its length
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
                Err(e) => Err(e),
            }
        }

        /// Returns the number of bytes accepted, and of bytes sent to the peer, possibly of earlier writes.
        pub fn write(&mut self, stream: &TcpStream, bytes: &[u8]) -> io::Result<(usize, usize)> {
            let taken = self.connection.writer().write(bytes)?;
            match self.flush(stream)? {
                0 if taken == 0 => Err(io::ErrorKind::WouldBlock.into()),
                sent => Ok((taken, sent)),
            }
        }

        /// Sends encrypted bytes until the socket would block.
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

        /// Tells the peer that the connection ends here and was not cut.
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

    /// This build has no TLS.
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
