//! The interface of a link-local address: `fe80::1%eth0`, in a URL also `fe80::1%25eth0` (RFC 4007,
//! RFC 6874).

use std::borrow::Cow;
use std::io;
use std::net::{SocketAddr, SocketAddrV6};
use std::ops::Range;

use rustix::net::{AddressFamily, SocketType};

/// `IFNAMSIZ` of <linux/if.h>, without the zero at its end.
const MAX_INTERFACE_BYTES: usize = 15;

/// The address and zone of a host; `None`: it has no zone. In a URL the separator may also be
/// `%25`.
pub fn split(host: &str) -> Option<(&str, &str)> {
    let (address, zone) = host.split_once('%')?;
    let encoded = zone.strip_prefix("25").filter(|zone| !zone.is_empty());
    Some((address, encoded.unwrap_or(zone)))
}

/// Whether the text is the name or number of an interface.
pub fn is_zone(text: &str) -> bool {
    (1..=MAX_INTERFACE_BYTES).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// The zone of a URL, as [`super::values::url`] writes it.
pub fn of(url: &str) -> Option<&str> {
    Some(&url[range(url)?][1..])
}

/// The URL without its zone, which is meaningful only on this machine.
pub fn without(url: &str) -> Cow<'_, str> {
    match range(url) {
        Some(zone) => format!("{}{}", &url[..zone.start], &url[zone.end..]).into(),
        None => url.into(),
    }
}

fn range(url: &str) -> Option<Range<usize>> {
    let from = url.find("://[")?;
    let to = from + url[from..].find(']')?;
    let from = from + url[from..to].find('%')?;
    Some(from..to)
}

/// The current number of an interface.
pub fn index(zone: &str) -> io::Result<u32> {
    if let Ok(number) = zone.parse() {
        return Ok(number);
    }
    let socket = rustix::net::socket(AddressFamily::INET6, SocketType::DGRAM, None)?;
    Ok(rustix::net::netdevice::name_to_index(socket, zone)?)
}

/// Parses an address and a port, optionally with a zone.
pub fn socket_address(text: &str) -> io::Result<SocketAddr> {
    let wrong = || io::Error::from(io::ErrorKind::InvalidInput);
    let Some((address, rest)) = text.split_once('%') else {
        return text.parse().map_err(|_| wrong());
    };
    let (zone, port) = rest.split_once(']').ok_or_else(wrong)?;
    let bare: SocketAddrV6 = format!("{address}]{port}").parse().map_err(|_| wrong())?;
    Ok(SocketAddrV6::new(*bare.ip(), bare.port(), 0, index(zone)?).into())
}
