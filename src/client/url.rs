//! The parts of a hub's URL, which the settings have checked. Pure.

/// The host of a URL, without the brackets of IPv6.
pub(super) fn host_of(url: &str) -> &str {
    split_authority(authority_of(url)).0
}

/// The port of a URL that was checked.
pub(super) fn port_of(url: &str) -> u16 {
    split_authority(authority_of(url))
        .1
        .unwrap_or(if url.starts_with("https://") { 443 } else { 80 })
}

pub(super) fn authority_of(url: &str) -> &str {
    url.split("://")
        .nth(1)
        .and_then(|rest| rest.split('/').next())
        .unwrap_or("")
}

/// `HOST`, `HOST:PORT` or an IPv6 address, in brackets if it has a port: host without brackets, and port.
pub(super) fn split_authority(authority: &str) -> (&str, Option<u16>) {
    let parsed = |(host, port): (_, &str)| Some((host, Some(port.parse().ok()?)));
    match authority
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        Some((address, rest)) => rest
            .strip_prefix(':')
            .and_then(|port| parsed((address, port)))
            .unwrap_or((address, None)),
        // only an IPv6 address has more than one colon
        None if authority.matches(':').count() == 1 => authority
            .split_once(':')
            .and_then(parsed)
            .unwrap_or((authority, None)),
        None => (authority, None),
    }
}

pub(super) fn is_address(url: &str) -> bool {
    host_of(url).parse::<std::net::IpAddr>().is_ok()
}

/// Whether a URL names this machine.
pub fn is_loopback(url: &str) -> bool {
    let host = host_of(url);
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

/// The path of a request without its query.
pub(super) fn bare(path: &str) -> &str {
    path.split('?').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_recognised_by_name_and_by_address() {
        for url in [
            "http://localhost:8080",
            "http://127.0.0.5",
            "https://[::1]:1/x",
            "http://LOCALHOST",
        ] {
            assert!(is_loopback(url), "{url}");
        }
        for url in [
            "http://localhost.example:1",
            "http://10.0.0.1:8080",
            "http://[fe80::1]:1",
            "http://127.0.0.1.nip.example",
        ] {
            assert!(!is_loopback(url), "{url}");
        }
    }
}
