//! Opens the port. It accepts no connection.

use std::io;
use std::net::{SocketAddr, TcpListener};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::limits::BACKLOG;
use crate::error::{Error, Kind, Result, plain};

pub fn listen(address: SocketAddr) -> Result<TcpListener> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let open = || -> io::Result<TcpListener> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        // let a restart bind while old connections are in TIME_WAIT
        sockopt::set_socket_reuseaddr(&socket, true)?;
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    open().map_err(|e| {
        let error = Error::new(
            Kind::CannotCreate,
            format!("cannot listen on {address}: {}", plain(&e)),
        );
        match e.kind() {
            io::ErrorKind::AddrInUse => {
                error.hint("is another \"mesync serve\" running? choose a port with --listen")
            }
            io::ErrorKind::PermissionDenied => {
                error.hint("ports below 1024 need a privilege: choose another one with --listen")
            }
            io::ErrorKind::AddrNotAvailable => {
                error.hint("this machine does not have that address")
            }
            _ => error,
        }
    })
}
