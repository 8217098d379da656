//! A cable between client and hub that counts what passes, and can be stopped, or damages it, at a certain byte.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub struct Proxy {
    pub port: u16,
    up: Arc<Way>,
    down: Arc<Way>,
    is_cut: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

struct Way {
    passed: AtomicU64,
    /// Nothing passes beyond so many bytes.
    hold: AtomicU64,
    /// The byte after so many is changed.
    damaged: AtomicU64,
}

impl Proxy {
    pub fn to(port: u16) -> Proxy {
        let way = || {
            Arc::new(Way {
                passed: AtomicU64::new(0),
                hold: AtomicU64::new(u64::MAX),
                damaged: AtomicU64::new(u64::MAX),
            })
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // delayed bytes must wait at the sender, not in between; accepted connections inherit this
        rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 64 * 1024).unwrap();
        let proxy = Proxy {
            port: listener.local_addr().unwrap().port(),
            up: way(),
            down: way(),
            is_cut: Arc::default(),
            connections: Arc::default(),
        };
        let (up, down) = (proxy.up.clone(), proxy.down.clone());
        let (is_cut, connections) = (proxy.is_cut.clone(), proxy.connections.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let mut connections = connections.lock().unwrap();
                if is_cut.load(Relaxed) {
                    continue;
                }
                // a hub that is not there: the client sees its connection closed
                let Ok(hub) = TcpStream::connect(("127.0.0.1", port)) else {
                    continue;
                };
                connections.push(client.try_clone().unwrap());
                for (from, to, way) in [(&client, &hub, &up), (&hub, &client, &down)] {
                    let (from, to, way) = (
                        from.try_clone().unwrap(),
                        to.try_clone().unwrap(),
                        way.clone(),
                    );
                    std::thread::spawn(move || way.carry(from, to));
                }
            }
        });
        proxy
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Bytes to the hub so far.
    pub fn up(&self) -> u64 {
        self.up.passed.load(Relaxed)
    }

    /// Bytes from the hub so far.
    pub fn down(&self) -> u64 {
        self.down.passed.load(Relaxed)
    }

    /// Lets so many more bytes pass to the hub; `None`: all.
    pub fn hold_up(&self, more: Option<u64>) {
        self.up.hold(more);
    }

    pub fn hold_down(&self, more: Option<u64>) {
        self.down.hold(more);
    }

    /// Changes one byte from the hub, the one after so many more.
    pub fn damage_down(&self, after: u64) {
        let passed = self.down.passed.load(Relaxed);
        self.down.damaged.store(passed + after, Relaxed);
    }

    /// Connections so far that the hub has accepted, without those that were cut.
    pub fn connections(&self) -> usize {
        self.connections.lock().unwrap().len()
    }

    /// Closes all connections, and each new one until [`Proxy::mend`], as where a hub was killed.
    pub fn cut(&self) {
        let mut connections = self.connections.lock().unwrap();
        self.is_cut.store(true, Relaxed);
        for connection in connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    pub fn mend(&self) {
        self.is_cut.store(false, Relaxed);
    }

    /// As many bytes have passed as may.
    pub fn is_held(&self) -> bool {
        [&self.up, &self.down].iter().any(|way| way.left() == 0)
    }
}

impl Way {
    fn hold(&self, more: Option<u64>) {
        self.hold.store(
            more.map_or(u64::MAX, |more| self.passed.load(Relaxed) + more),
            Relaxed,
        );
    }

    fn left(&self) -> u64 {
        self.hold
            .load(Relaxed)
            .saturating_sub(self.passed.load(Relaxed))
    }

    fn carry(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let most = buffer.len().min(self.left() as usize);
            if most == 0 {
                std::thread::park_timeout(Duration::from_millis(2));
                continue;
            }
            match from.read(&mut buffer[..most]) {
                Ok(n) if n > 0 => {
                    let before = self.passed.fetch_add(n as u64, Relaxed);
                    let at = self.damaged.load(Relaxed).wrapping_sub(before);
                    if at < n as u64 {
                        buffer[at as usize] ^= 1;
                    }
                    if to.write_all(&buffer[..n]).is_err() {
                        break;
                    }
                }
                _ => break,
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }
}
