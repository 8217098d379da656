//! Places to call the hub from: network namespaces around its own.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::http::{Conn, Wire};

/// Addresses of each place outside.
pub const ADDRESSES: u8 = 20;

fn ip(args: &[&str]) -> bool {
    Command::new("ip")
        .args(args)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

/// Fails under CI, where everything must be tested; elsewhere prints what was skipped.
pub fn left_out(what: &str) {
    assert!(std::env::var_os("CI").is_none(), "{what}");
    println!("SKIPPED: {what}");
}

/// The hub's namespace with a cable to each of the places; removed with the test.
pub struct Net {
    name: String,
    places: Vec<&'static str>,
}

impl Net {
    /// `None`, with a word, if this user may not make namespaces.
    pub fn lay(places: &[&'static str]) -> Option<Net> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "mesync-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let net = Net {
            name,
            places: places.to_vec(),
        };
        let hub = net.space("hub");
        if !ip(&["netns", "add", &hub]) {
            left_out(
                "only root with iproute2 can make the network for attacks from outside: they come from loopback only",
            );
            return None;
        }
        assert!(ip(&["-n", &hub, "link", "set", "lo", "up"]));
        for (n, place) in places.iter().enumerate() {
            let (there, veth) = (net.space(place), format!("v{n}"));
            let cidr = |host: u8| format!("10.88.{n}.{host}/24");
            let laid = ip(&["netns", "add", &there])
                && ip(&[
                    "-n", &hub, "link", "add", &veth, "type", "veth", "peer", "name", "v", "netns",
                    &there,
                ])
                && ip(&["-n", &hub, "addr", "add", &cidr(1), "dev", &veth])
                && (2..2 + ADDRESSES)
                    .all(|host| ip(&["-n", &there, "addr", "add", &cidr(host), "dev", "v"]))
                && ip(&["-n", &hub, "link", "set", &veth, "up"])
                && ip(&["-n", &there, "link", "set", "v", "up"])
                && ip(&["-n", &there, "link", "set", "lo", "up"]);
            assert!(laid, "cannot lay the cable to {place}");
        }
        Some(net)
    }

    fn space(&self, place: &str) -> String {
        format!("{}-{place}", self.name)
    }

    /// Cuts a cable: packets are lost, and neither end is notified.
    pub fn cut(&self, place: &str) {
        assert!(ip(&["-n", &self.space(place), "link", "set", "v", "down"]));
    }

    pub fn mend(&self, place: &str) {
        assert!(ip(&["-n", &self.space(place), "link", "set", "v", "up"]));
    }

    pub fn place(&self, place: &str, port: u16) -> Place {
        let n = self.places.iter().position(|p| *p == place).unwrap() as u8;
        Place {
            space: Some(self.space(place)),
            hub: SocketAddr::from(([10, 88, n, 1], port)),
            sources: (2..2 + ADDRESSES)
                .map(|host| Ipv4Addr::new(10, 88, n, host))
                .collect(),
            is_encrypted: false,
        }
    }

    /// The hub's own machine.
    pub fn inside(&self, port: u16) -> Place {
        Place {
            space: Some(self.space("hub")),
            ..Place::here(port)
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for place in self.places.iter().chain(&["hub"]) {
            ip(&["netns", "del", &self.space(place)]);
        }
    }
}

/// The place of a caller, and the hub's address from there.
#[derive(Debug, Clone)]
pub struct Place {
    space: Option<String>,
    pub hub: SocketAddr,
    sources: Vec<Ipv4Addr>,
    /// Its callers speak TLS.
    is_encrypted: bool,
}

impl Place {
    /// This machine, when there is no other.
    pub fn here(port: u16) -> Place {
        Place {
            space: None,
            hub: SocketAddr::from(([127, 0, 0, 1], port)),
            sources: vec![Ipv4Addr::LOCALHOST],
            is_encrypted: false,
        }
    }

    /// Moves the calling thread there; threads and processes that it starts are there too.
    pub fn enter(&self) {
        let Some(space) = &self.space else { return };
        let file = File::open(PathBuf::from("/run/netns").join(space)).unwrap();
        move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&file),
            Some(LinkNameSpaceType::Network),
        )
        .unwrap();
    }

    /// What runs a program there: it becomes the program, so the process id stays.
    pub fn wrap(&self) -> Vec<String> {
        let Some(space) = &self.space else {
            return Vec::new();
        };
        ["ip", "netns", "exec", space].map(String::from).to_vec()
    }

    /// The same with TLS, or without.
    #[allow(dead_code)] // the attacks use this and the next three
    pub fn encrypted(self, is_encrypted: bool) -> Place {
        Place {
            is_encrypted,
            ..self
        }
    }

    #[allow(dead_code)]
    pub fn is_encrypted(&self) -> bool {
        self.is_encrypted
    }

    /// From the `n`th address of this place, by a thread that has entered it.
    #[allow(dead_code)]
    pub fn conn(&self, n: usize) -> Conn {
        Conn::new(self.wire(self.connect(n).unwrap()))
    }

    /// Speaks TLS on it if the callers of this place do.
    #[allow(dead_code)]
    pub fn wire(&self, stream: TcpStream) -> Wire {
        #[cfg(feature = "tls")]
        if self.is_encrypted {
            return Wire::Encrypted(Box::new(super::tls::encrypted(stream)));
        }
        Wire::Plain(stream)
    }

    /// A TCP connection from the `n`th address of this place, by a thread that has entered it.
    pub fn connect(&self, n: usize) -> std::io::Result<TcpStream> {
        self.connect_small(n, None)
    }

    /// The buffer is so small that the hub soon notices a client that does not read.
    pub fn connect_small(&self, n: usize, buffer: Option<usize>) -> std::io::Result<TcpStream> {
        let socket = rustix::net::socket_with(
            AddressFamily::INET,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        if let Some(buffer) = buffer {
            rustix::net::sockopt::set_socket_recv_buffer_size(&socket, buffer)?;
        }
        if self.sources.len() > 1 {
            rustix::net::bind(
                &socket,
                &SocketAddr::from((self.sources[n % self.sources.len()], 0)),
            )?;
        }
        rustix::net::connect(&socket, &self.hub)?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}
