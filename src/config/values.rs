//! Values of settings: parses text, with an error that says which values are valid.
//!
//! It knows no setting by name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::{Reserve, environment, zone};
use crate::wire;

pub type Parsed<T> = std::result::Result<T, String>;

pub fn number(text: &str, least: u64, most: u64) -> Parsed<u64> {
    counted("", text, least, most)
}

pub fn seconds(text: &str, least: u64, most: u64) -> Parsed<Duration> {
    counted(" of seconds", text, least, most).map(Duration::from_secs)
}

pub fn milliseconds(text: &str, least: u64, most: u64) -> Parsed<Duration> {
    counted(" of milliseconds", text, least, most).map(Duration::from_millis)
}

fn counted(unit: &str, text: &str, least: u64, most: u64) -> Parsed<u64> {
    let wrong = || {
        format!(
            "must be a whole number{unit} from {least} to {most}, not \"{}\"",
            wire::brief(text)
        )
    };
    text.trim()
        .parse()
        .ok()
        .filter(|n| (least..=most).contains(n))
        .ok_or_else(wrong)
}

/// `4096`, `64KB`, `256MB`, `8GB`, `1TB`, or with `i` for powers of 1024.
pub fn bytes(text: &str, least: u64, most: u64) -> Parsed<u64> {
    let wrong = || {
        format!(
            "must be a size such as 64MB, from {least} to {most} bytes, not \"{}\"",
            wire::brief(text)
        )
    };
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let unit: u64 = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    let n: Option<u64> = text[..digits]
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(unit));
    n.filter(|n| (least..=most).contains(n)).ok_or_else(wrong)
}

pub fn reserve(text: &str) -> Parsed<Reserve> {
    match text.trim().strip_suffix('%') {
        Some(percent) => {
            let wrong = || format!("must be from 0% to 90%, not \"{}\"", wire::brief(text));
            percent
                .trim()
                .parse()
                .ok()
                .filter(|p| (0.0..=90.0).contains(p))
                .map(Reserve::Percent)
                .ok_or_else(wrong)
        }
        None => bytes(text, 0, 1_000_000_000_000).map(Reserve::Bytes),
    }
}

/// An absolute path; `~/` is the home directory.
pub fn path(text: &str) -> Parsed<PathBuf> {
    if text.is_empty() || text.contains('\0') {
        return Err("not a path: it is empty, or has a NUL in it".into());
    }
    if text == "~" || text.starts_with("~/") {
        let home = environment::home()
            .ok_or("~ needs the home directory, and HOME is not set to an absolute path")?;
        return Ok(home.join(text[1..].trim_start_matches('/')));
    }
    std::path::absolute(text).map_err(|e| format!("not a path: {e}"))
}

/// `http://HOST`, with an optional port and path: scheme and host in lower case, so that equal URLs compare equal.
pub fn url(text: &str) -> Parsed<String> {
    let text = text.trim();
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let rest = rest.trim_end_matches('/');
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // never show a part that may be a password
    let shown = authority
        .rsplit_once('@')
        .map_or(text.to_string(), |(_, host)| {
            format!("{scheme}://…@{host}{path}")
        });
    let wrong = |why: &str| {
        format!(
            "must be a URL such as http://hub.example:8080, not \"{}\": {why}",
            wire::brief(&shown)
        )
    };
    let scheme = scheme.to_ascii_lowercase();
    match scheme.as_str() {
        "http" => {}
        "https" if cfg!(feature = "tls") => {}
        "https" => return Err(wrong("this program was built without TLS")),
        _ => return Err(wrong("it must begin with http:// or https://")),
    }
    if authority.contains('@') {
        return Err(wrong("a key does not belong in it; use MESYNC_API_KEY"));
    }
    if authority.is_empty() || text.contains(char::is_whitespace) || path.contains(['?', '#']) {
        return Err(wrong("the host is missing or something follows it"));
    }
    let authority = lower_case(authority);
    check_authority(&authority).map_err(|why| wrong(&why))?;
    let url = format!("{scheme}://{authority}{path}");
    // the library that will use the URL decides
    match zone::without(&url).parse::<ureq::http::Uri>() {
        Ok(_) => Ok(url),
        Err(e) => Err(wrong(&e.to_string())),
    }
}

/// The name of an interface keeps its case.
fn lower_case(authority: &str) -> String {
    match authority.split_once(']').and_then(|(host, port)| {
        let (address, zone) = zone::split(host)?;
        Some(format!("{}%{zone}]{port}", address.to_lowercase()))
    }) {
        Some(zoned) => zoned,
        None => authority.to_lowercase(),
    }
}

/// `HOST` or `HOST:PORT`, in lower case.
fn check_authority(authority: &str) -> Parsed<()> {
    let (host, port) = match authority.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((address, rest))) => {
            check_ipv6(address)?;
            (
                "",
                if rest.is_empty() {
                    None
                } else {
                    Some(
                        rest.strip_prefix(':')
                            .ok_or("only a port may follow the address")?,
                    )
                },
            )
        }
        Some(None) => return Err("the address has no ] at its end".into()),
        None if authority.matches(':').count() > 1 => {
            return Err("an IPv6 address needs brackets: http://[fd00::1]:8080".into());
        }
        None => authority
            .split_once(':')
            .map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    if !authority.starts_with('[') {
        check_host_name(host)?;
    }
    match port {
        None => Ok(()),
        Some(port) => check_port(port, 1),
    }
}

fn check_ipv6(text: &str) -> Parsed<()> {
    let (address, zone) = text
        .split_once('%')
        .map_or((text, None), |(address, zone)| (address, Some(zone)));
    let Ok(ip) = address.parse::<Ipv6Addr>() else {
        return Err(format!("{} is not an IPv6 address", wire::brief(address)));
    };
    match zone {
        Some(zone) if !zone::is_zone(zone) => Err(format!(
            "{} is not the name of an interface, as ip link shows it",
            wire::brief(zone)
        )),
        Some(_) if !ip.is_unicast_link_local() => {
            Err("only an address from fe80::/10 has a zone (%)".into())
        }
        _ => Ok(()),
    }
}

/// A DNS name (RFC 1123, and underscores), or an IPv4 address.
fn check_host_name(host: &str) -> Parsed<()> {
    let labels: Vec<&str> = host.strip_suffix('.').unwrap_or(host).split('.').collect();
    let label = |l: &&str| {
        (1..=63).contains(&l.len())
            && l.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    match host {
        "" => Err("the host is missing".into()),
        _ if !host.is_ascii() => Err("a host name beyond ASCII is written as xn--…".into()),
        _ if host.len() > 253 || !labels.iter().all(label) => {
            Err(format!("{} is not a host name", wire::brief(host)))
        }
        // the resolver reads 10.1 as 10.0.0.1, and 010 as 8
        _ if labels
            .last()
            .is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()))
            && host.parse::<Ipv4Addr>().is_err() =>
        {
            Err(format!("{} is not an IPv4 address", wire::brief(host)))
        }
        _ => Ok(()),
    }
}

fn check_port(text: &str, least: u16) -> Parsed<()> {
    let number = Some(text)
        .filter(|t| t.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|t| t.parse::<u16>().ok());
    match number.filter(|n| *n >= least) {
        Some(_) => Ok(()),
        None => Err(format!(
            "a port is a number from {least} to 65535, not \"{}\"",
            wire::brief(text)
        )),
    }
}

/// An address and port to listen on; for port 0 the system chooses one.
pub fn listen(text: &str) -> Parsed<String> {
    let text = text.trim();
    let bare_port = text.starts_with(':') && text.matches(':').count() == 1;
    let full = if bare_port {
        format!("0.0.0.0{text}")
    } else {
        text.to_string()
    };
    if let Ok(address) = full.parse::<SocketAddr>() {
        return Ok(address.to_string());
    }
    let wrong = |why: &str| {
        format!(
            "must be an address and a port such as 0.0.0.0:8080 or [::]:8080, not \"{}\": {why}",
            wire::brief(text)
        )
    };
    let is_address = |text: &str| text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let Some((host, port)) = full.rsplit_once(':').filter(|_| !is_address(text)) else {
        let why = if !full.is_empty() && full.bytes().all(|b| b.is_ascii_digit()) {
            "before a port alone is a colon"
        } else {
            "the port is missing"
        };
        return Err(wrong(why));
    };
    check_port(port, 0).map_err(|why| wrong(&why))?;
    if let Some(zoned) = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        && zoned.contains('%')
    {
        return check_ipv6(zoned)
            .map(|()| full.clone())
            .map_err(|why| wrong(&why));
    }
    Err(match host {
        _ if host.eq_ignore_ascii_case("localhost") => {
            wrong(&format!("write 127.0.0.1:{port} or [::1]:{port}"))
        }
        _ if !host.starts_with('[') && is_address(host) => {
            wrong(&format!("an IPv6 address needs brackets: [{host}]:{port}"))
        }
        _ => wrong(&format!(
            "{} is not an IP address; 0.0.0.0:{port} means all addresses of this machine",
            wire::brief(host)
        )),
    })
}

/// A valid key for a setting or a file.
pub fn check_key(text: &str) -> Parsed<String> {
    let text = text.trim();
    if (8..=512).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(text.to_string())
    } else {
        // never show the value: it is a secret
        Err("a key is 8 to 512 printable characters without spaces".into())
    }
}

pub fn level(text: &str) -> Parsed<log::LevelFilter> {
    match text.trim() {
        "error" => Ok(log::LevelFilter::Error),
        "warn" => Ok(log::LevelFilter::Warn),
        "info" => Ok(log::LevelFilter::Info),
        "debug" => Ok(log::LevelFilter::Debug),
        _ => Err(format!(
            "must be error, warn, info or debug, not \"{}\"",
            wire::brief(text)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<T: std::fmt::Debug>(got: Parsed<T>, wants: &str) {
        let got = got.map_or_else(|why| why, |value| format!("{value:?}"));
        assert!(got.contains(wants), "{got}");
    }

    #[test]
    fn a_url_is_one_that_can_be_called() {
        check(url("http://hub:8080/"), "\"http://hub:8080\"");
        check(
            url("HTTP://Hub.Example:80/Path/"),
            "\"http://hub.example:80/Path\"",
        );
        check(url("http://[FD00::1]:8080"), "\"http://[fd00::1]:8080\"");
        check(url("http://[::1]"), "\"http://[::1]\"");
        check(url("http://10.0.0.1"), "\"http://10.0.0.1\"");
        check(
            url("http://my_hub.local.:65535"),
            "\"http://my_hub.local.:65535\"",
        );
        for port in [
            "70000", "abc", "0", "-1", "+80", "65536", "", "80:80x", "８０",
        ] {
            let wants = if port.contains(':') {
                "needs brackets"
            } else {
                "a port is a number from 1 to 65535"
            };
            check(url(&format!("http://hub:{port}")), wants);
        }
        check(
            url("http://[::1]:0"),
            "a port is a number from 1 to 65535, not \"0\"",
        );
        check(
            url("http://[::1]8080"),
            "only a port may follow the address",
        );
        check(url("http://[::1:8080"), "no ] at its end");
        check(url("http://fd00::1:8080"), "needs brackets");
        let zoned = "\"http://[fe80::a%enP1s0]:8080\"";
        check(url("HTTP://[FE80::A%enP1s0]:8080/"), zoned);
        check(url("http://[fe80::a%25enP1s0]:8080"), zoned);
        check(url("http://[fe80::a%3]"), "\"http://[fe80::a%3]\"");
        check(
            url("http://[fd00::1%eth0]"),
            "only an address from fe80::/10",
        );
        check(url("http://[fe80::1%]"), "is not the name of an interface");
        check(url("http://[fe80::1%a/b]"), "no ] at its end");
        check(url("http://[fe80::1%a b]"), "something follows it");
        check(url("http://hub%eth0"), "is not a host name");
        check(url("http://[1.2.3.4]"), "1.2.3.4 is not an IPv6 address");
        check(url("http://10.0.1"), "10.0.1 is not an IPv4 address");
        check(url("http://256.0.0.1"), "256.0.0.1 is not an IPv4 address");
        check(url("http://a..b"), "a..b is not a host name");
        check(url("http://hüb"), "xn--");
        check(url("http://h%20b"), "is not a host name");
        check(url("http://"), "the host is missing");
        check(url("http://:8080"), "the host is missing");
        check(url("http://hub/?x"), "something follows it");
        check(url("http://hub?x"), "something follows it");
        check(url("http://hub/a\u{7f}"), "http://hub/a");
        check(url("ftp://hub"), "must begin with http://");
        check(url("hub:8080"), "must begin with http://");
        let refused = url("http://user:pw-secret@hub").unwrap_err();
        assert!(
            refused.contains("\"http://…@hub\": a key does not belong in it")
                && !refused.contains("pw-secret"),
            "{refused}"
        );
        assert!(
            !url("ftp://user:pw-secret@hub")
                .unwrap_err()
                .contains("pw-secret")
        );
        assert!(!url("user:pw-secret@hub").unwrap_err().contains("pw-secret"));
    }

    #[test]
    fn a_listen_address_is_checked_and_the_error_says_why() {
        check(listen(":9000"), "\"0.0.0.0:9000\"");
        check(listen("[::]:8080"), "\"[::]:8080\"");
        check(listen("127.0.0.1:0"), "\"127.0.0.1:0\"");
        check(listen("[fe80::1%2]:8080"), "\"[fe80::1%2]:8080\"");
        check(
            listen("localhost:8080"),
            "write 127.0.0.1:8080 or [::1]:8080",
        );
        check(listen("hub:8080"), "hub is not an IP address");
        check(listen("[fe80::1%eth0]:8080"), "\"[fe80::1%eth0]:8080\"");
        check(
            listen("[fe80::1%a:b]:8080"),
            "a:b is not the name of an interface",
        );
        check(listen("[::1%lo]:8080"), "only an address from fe80::/10");
        check(
            listen("0.0.0.0:70000"),
            "a port is a number from 0 to 65535, not \"70000\"",
        );
        check(
            listen(":x"),
            "a port is a number from 0 to 65535, not \"x\"",
        );
        check(
            listen("0.0.0.0:"),
            "a port is a number from 0 to 65535, not \"\"",
        );
        for text in ["0.0.0.0", "[::]", "::", "localhost", ""] {
            check(listen(text), "the port is missing");
        }
        check(listen("8080"), "before a port alone is a colon");
        check(listen("fd00::1:99999"), "not \"99999\"");
        check(
            listen("::ffff:1.2.3.4:80"),
            "an IPv6 address needs brackets: [::ffff:1.2.3.4]:80",
        );
    }

    #[test]
    fn odd_numbers_sizes_and_parts_are_refused_with_the_range() {
        for text in [
            "0",
            "-1",
            "1e9d",
            "5s",
            "1.5",
            "",
            " ",
            "99999999999999999999999",
            "0x10",
            "٥",
        ] {
            check(
                seconds(text, 1, 60),
                "must be a whole number of seconds from 1 to 60, not",
            );
            check(
                milliseconds(text, 1, 60),
                "must be a whole number of milliseconds from 1 to 60, not",
            );
            check(
                number(text, 1, 60),
                "must be a whole number from 1 to 60, not",
            );
        }
        check(seconds(" 5 ", 1, 60), "5s");
        for text in [
            "0",
            "-1MB",
            "1e9",
            "MB",
            "1.5MB",
            "99999999999999999999TB",
            "18446744073709551615TB",
            "5 MB s",
            "",
        ] {
            check(
                bytes(text, 1, 1 << 40),
                "must be a size such as 64MB, from 1 to 1099511627776 bytes, not",
            );
        }
        check(bytes("1 KiB", 1, 1 << 40), "1024");
        for text in ["nan%", "inf%", "-1%", "91%", "%", "1%%"] {
            check(reserve(text), "must be from 0% to 90%, not");
        }
        check(path(""), "not a path");
        check(path("a\0b"), "not a path");
    }
}
