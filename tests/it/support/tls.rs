//! Clients that accept any certificate, and a relay between a client and a hub that has a certificate of its own, and reads what
//! passes.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use mesync::internals::pins::{Pins, client_config};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConnection, ServerConfig, ServerConnection, StreamOwned};

pub type Encrypted = StreamOwned<ClientConnection, TcpStream>;

/// A client that has not begun its handshake.
pub fn client() -> ClientConnection {
    // a client that knows no certificate takes the first one; each connection has a client of its own
    let config = client_config(&Pins::new(&[])).unwrap();
    let name = ServerName::try_from("mesync-hub.invalid").unwrap();
    ClientConnection::new(Arc::new(config), name).unwrap()
}

/// The handshake begins with the first byte that is written or read.
pub fn encrypted(stream: TcpStream) -> Encrypted {
    StreamOwned::new(client(), stream)
}

pub struct Relay {
    pub port: u16,
    requests: Arc<AtomicUsize>,
}

impl Relay {
    pub fn to(hub: u16) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(AtomicUsize::new(0));
        let config = server();
        let count = requests.clone();
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let (config, count) = (config.clone(), count.clone());
                std::thread::spawn(move || {
                    let _ = carry(near, hub, config, &count);
                });
            }
        });
        Relay { port, requests }
    }

    /// How many it has read.
    pub fn requests(&self) -> usize {
        self.requests.load(Relaxed)
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn server() -> Arc<ServerConfig> {
    let made = rcgen::generate_simple_self_signed(["relay".to_string()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap();
    let config = config.with_no_client_auth();
    Arc::new(
        config
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap(),
    )
}

fn carry(
    near: TcpStream,
    hub: u16,
    config: Arc<ServerConfig>,
    count: &AtomicUsize,
) -> io::Result<()> {
    let mut first = [0];
    near.peek(&mut first)?;
    let far = TcpStream::connect(("127.0.0.1", hub))?;
    if first[0] != 0x16 {
        return exchange(near, far, count);
    }
    let far = encrypted(far);
    let near = StreamOwned::new(ServerConnection::new(config).unwrap(), near);
    exchange(near, far, count)
}

/// One request and its answer after the other.
fn exchange(
    mut near: impl Read + Write,
    mut far: impl Read + Write,
    count: &AtomicUsize,
) -> io::Result<()> {
    loop {
        let request = message(&mut near)?;
        count.fetch_add(1, Relaxed);
        far.write_all(&request)?;
        far.flush()?;
        let answer = message(&mut far)?;
        near.write_all(&answer)?;
        near.flush()?;
    }
}

fn message(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        from.read_exact(&mut byte)?;
        bytes.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |n| n.trim().parse().unwrap());
    let begun = bytes.len();
    bytes.resize(begun + length, 0);
    from.read_exact(&mut bytes[begun..])?;
    Ok(bytes)
}
