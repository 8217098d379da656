//! Protected mode: while a hub has no key, it admits only programs on its own machine.
//!
//! Pure. It does not know whether the hub has a key.

use std::net::IpAddr;

use super::http::{Headers, Reply, header};
use crate::wire;

/// Checks that a program on this machine sent the request, directly and for itself; the error is an answer with a hint.
///
/// A proxy on this machine would admit all of its clients, and a browser the author of any page: through another name for
/// this address (DNS rebinding), or from a page of another origin.
pub fn check(headers: &Headers, peer: IpAddr) -> Result<(), Reply> {
    why_not(headers, peer).map_or(Ok(()), |why| Err(refusal(&why)))
}

fn why_not(headers: &Headers, peer: IpAddr) -> Option<String> {
    if !is_local(peer) {
        return Some(format!("not {}", peer.to_canonical()));
    }
    let host = header(headers, "host")
        .unwrap_or_default()
        .to_ascii_lowercase();
    let (name, port) = match host.rfind(':') {
        Some(at) if !host.ends_with(']') => (&host[..at], &host[at + 1..]),
        _ => (host.as_str(), ""),
    };
    if !["localhost", "127.0.0.1", "[::1]"].contains(&name)
        || !port.bytes().all(|b| b.is_ascii_digit())
    {
        return Some(format!(
            "under the names localhost, 127.0.0.1 and [::1], not \"{}\"",
            wire::brief(&host)
        ));
    }
    if is_forwarded(headers) {
        return Some("directly, not through a proxy".into());
    }
    is_from_foreign_page(headers).then(|| "not pages of other servers".into())
}

fn is_forwarded(headers: &Headers) -> bool {
    let forwarded = |name: &str| {
        name.starts_with("x-forwarded-") || ["forwarded", "x-real-ip", "via"].contains(&name)
    };
    headers.iter().any(|(name, _)| forwarded(name))
}

/// Whether the request seems to come from this machine, with or without a key.
pub fn is_from_here(headers: &Headers, peer: IpAddr) -> bool {
    is_local(peer) && !is_forwarded(headers)
}

/// Whether a browser sent the request for a page of another server, whose author then acts with the user's access.
fn is_from_foreign_page(headers: &Headers) -> bool {
    let host = header(headers, "host").unwrap_or_default();
    // behind a proxy with TLS, the page's origin is https
    let own = |origin: &str| {
        ["http", "https"]
            .iter()
            .any(|scheme| origin.eq_ignore_ascii_case(&format!("{scheme}://{host}")))
    };
    headers.iter().any(|(name, value)| match name.as_str() {
        "origin" => !own(value),
        "sec-fetch-site" => !["same-origin", "none"].contains(&value.as_str()),
        _ => false,
    })
}

/// Refuses requests from pages of other servers: without a key, a browser would give every page the user's access.
pub fn check_page(headers: &Headers) -> Result<(), Reply> {
    if is_from_foreign_page(headers) {
        Err(Reply::error(
            403,
            "pages of other servers are not admitted without a key",
        ))
    } else {
        Ok(())
    }
}

fn refusal(why: &str) -> Reply {
    let words = format!(
        "this hub has no keys and so serves only its own machine, {why}: run \"mesync join URL\" on the other machine, or \
         \"mesync key add NAME\" on the hub and set MESYNC_API_KEY there to the key that it shows"
    );
    Reply::error(403, words)
}

pub fn is_local(peer: IpAddr) -> bool {
    peer.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(peer: &str, host: &str, line: &str, wants: &str) {
        let mut headers = vec![("host".to_string(), host.to_string())];
        headers.extend(
            line.split_once(": ")
                .map(|(name, value)| (name.into(), value.into())),
        );
        let got = why_not(&headers, peer.parse().unwrap()).unwrap_or_default();
        assert!(
            got.contains(wants) && got.is_empty() == wants.is_empty(),
            "{peer} {host} {line}: got \"{got}\", not \"{wants}\""
        );
    }

    #[test]
    fn only_programs_on_this_machine_come_in() {
        for peer in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            check(peer, "localhost:8080", "", "");
        }
        for peer in [
            "192.0.2.7",
            "::ffff:192.0.2.7",
            "2001:db8::1",
            "0.0.0.0",
            "::",
        ] {
            check(peer, "localhost:8080", "", "not ");
        }
        for host in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:8080",
        ] {
            check("::1", host, "", "");
        }
        for host in [
            "",
            "hub",
            "hub:8080",
            "localhost.evil.example",
            "localhost:80:80",
            "localhost:x",
            "127.0.0.1.evil",
            "[::1]x",
            "::1",
        ] {
            check("::1", host, "", "under the names");
        }
        for line in [
            "forwarded: for=1",
            "x-forwarded-for: 127.0.0.1",
            "x-forwarded-proto: http",
            "x-real-ip: 1",
            "via: 1.1 p",
        ] {
            check("::1", "localhost:8080", line, "not through a proxy");
        }
        for line in [
            "origin: null",
            "origin: http://evil.example",
            "origin: http://localhost:3000",
            "sec-fetch-site: cross-site",
        ] {
            check("::1", "localhost:8080", line, "not pages of other servers");
        }
        for line in [
            "origin: http://LOCALHOST:8080",
            "sec-fetch-site: same-origin",
            "sec-fetch-site: none",
            "x-forwardedness: 1",
        ] {
            check("::1", "localhost:8080", line, "");
        }
    }

    #[test]
    fn a_foreign_page_is_not_let_in_where_no_key_is_asked_for() {
        let check = |lines: &[(&str, &str)], let_in: bool| {
            let headers: Vec<(String, String)> = lines
                .iter()
                .map(|(n, v)| (n.to_string(), v.to_string()))
                .collect();
            assert_eq!(check_page(&headers).is_ok(), let_in, "{lines:?}");
        };
        check(&[("host", "hub.lan:8080")], true);
        check(
            &[
                ("host", "hub.lan:8080"),
                ("origin", "http://hub.lan:8080"),
                ("sec-fetch-site", "same-origin"),
            ],
            true,
        );
        check(&[("host", "hub.lan"), ("origin", "https://hub.lan")], true);
        check(
            &[("host", "hub.lan:8080"), ("origin", "http://evil.example")],
            false,
        );
        check(&[("host", "hub.lan:8080"), ("origin", "null")], false);
        check(
            &[("host", "hub.lan:8080"), ("sec-fetch-site", "cross-site")],
            false,
        );
    }
}
