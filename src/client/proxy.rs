//! Which proxy the environment names for a hub, by the rules of curl.
//!
//! The scheme of the hub's URL selects the variable. An unusable value is an error: a call without
//! the proxy would take a route that the environment rules out.

use std::net::IpAddr;

use super::url::{host_of, is_loopback, port_of, split_authority};
use crate::error::{Error, Kind};
use crate::wire;

/// A proxy, and the variable that names it.
#[derive(Debug, Clone)]
pub struct Proxy {
    pub variable: &'static str,
    pub address: String,
    pub agent: ureq::Proxy,
}

/// The proxy for this URL; `None`: the hub is called directly.
pub fn find(
    url: &str,
    env: impl Fn(&str) -> Option<String>,
) -> crate::error::Result<Option<Proxy>> {
    let set = |names: &[&'static str]| {
        names
            .iter()
            .find_map(|name| Some((*name, env(name).filter(|value| !value.trim().is_empty())?)))
    };
    let of_scheme = if url.starts_with("https://") {
        ["https_proxy", "HTTPS_PROXY"]
    } else {
        ["http_proxy", "HTTP_PROXY"]
    };
    let Some((variable, value)) = set(&of_scheme).or_else(|| set(&["all_proxy", "ALL_PROXY"]))
    else {
        return Ok(None);
    };
    let exceptions = set(&["no_proxy", "NO_PROXY"])
        .map(|(_, list)| list)
        .unwrap_or_default();
    if is_loopback(url) || is_excepted(&exceptions, host_of(url), port_of(url)) {
        return Ok(None);
    }
    // never the value, which may contain a password
    let bad = |why: &str| {
        let hint = format!(
            "correct {variable}, or name {} in NO_PROXY to call it directly",
            host_of(url)
        );
        Error::new(
            Kind::Settings,
            format!("cannot use the proxy in {variable}: {why}"),
        )
        .hint(hint)
    };
    let agent = ureq::Proxy::new(value.trim())
        .map_err(|_| bad("it is not a URL such as http://proxy.example:3128"))?;
    match agent.protocol() {
        ureq::ProxyProtocol::Http => {}
        ureq::ProxyProtocol::Https if cfg!(feature = "tls") => {}
        ureq::ProxyProtocol::Https => return Err(bad("this program was built without TLS")),
        _ => return Err(bad("only HTTP proxies can be used")),
    }
    Ok(Some(Proxy {
        variable,
        address: wire::brief(&format!("{}:{}", agent.host(), agent.port())),
        agent,
    }))
}

/// Whether `NO_PROXY` contains this host: `*`, a name that also covers its subdomains, an address,
/// or a network such as `10.0.0.0/8`; an entry with a port covers only that port.
fn is_excepted(list: &str, host: &str, port: u16) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let address = host.parse::<IpAddr>().ok();
    list.split([',', ' ', '\t'])
        .map(str::trim)
        .filter(|entry| !entry.is_empty())
        .any(|entry| {
            let entry = entry.to_ascii_lowercase();
            let (name, wanted) = split_authority(&entry);
            if wanted.is_some_and(|wanted| wanted != port) {
                return false;
            }
            match (name, address) {
                ("*", _) => true,
                (name, Some(address)) => is_in(address, name),
                (name, None) => {
                    let name = name
                        .strip_prefix('*')
                        .unwrap_or(name)
                        .trim_start_matches('.')
                        .trim_end_matches('.');
                    !name.is_empty()
                        && host
                            .strip_suffix(name)
                            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
                }
            }
        })
}

fn is_in(address: IpAddr, network: &str) -> bool {
    let (network, length) = network
        .split_once('/')
        .map_or((network, None), |(network, length)| (network, Some(length)));
    let Ok(network) = network.parse::<IpAddr>() else {
        return false;
    };
    let (a, b, width) = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
        _ => return false,
    };
    let length = length.map_or(Some(width), |length| {
        length.parse::<u32>().ok().filter(|length| *length <= width)
    });
    // compares the upper `length` bits, if any
    length.is_some_and(|length| length == 0 || (a ^ b) >> (width - length) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, env: &[(&str, &str)], wants: &str) {
        let found = find(url, |name| {
            env.iter()
                .find(|(n, _)| *n == name)
                .map(|(_, value)| value.to_string())
        });
        let found = match found {
            Ok(found) => found.map_or("directly".to_string(), |proxy| {
                format!("{} by {}", proxy.address, proxy.variable)
            }),
            Err(e) => e.to_string(),
        };
        assert!(found.contains(wants), "{url} {env:?}: {found}");
        assert!(!found.contains("pw-secret"), "{found}");
    }

    #[test]
    fn the_scheme_of_the_hub_decides_on_the_variable() {
        let (http, https, all) = (
            ("http_proxy", "http://p:1"),
            ("HTTPS_PROXY", "http://q:2"),
            ("ALL_PROXY", "r:3"),
        );
        check("http://hub:8080", &[], "directly");
        check("http://hub:8080", &[http, https, all], "p:1 by http_proxy");
        check("http://hub:8080", &[https], "directly");
        check("http://hub:8080", &[https, all], "r:3 by ALL_PROXY");
        check("https://hub", &[http, https, all], "q:2 by HTTPS_PROXY");
        check("https://hub", &[http], "directly");
        check(
            "http://hub",
            &[("HTTP_PROXY", "p"), ("http_proxy", " ")],
            "p:80 by HTTP_PROXY",
        );
        check(
            "http://hub",
            &[("HTTP_PROXY", "p:1"), ("http_proxy", "q:2")],
            "q:2 by http_proxy",
        );
        check(
            "http://hub",
            &[("http_proxy", "http://user:pw-secret@p:1")],
            "p:1 by http_proxy",
        );
        check(
            "http://hub",
            &[("http_proxy", "http://user:pw-secret@:x/ /")],
            "cannot use the proxy in http_proxy: it is not a URL",
        );
        check(
            "http://hub",
            &[("all_proxy", "socks5://user:pw-secret@p:1")],
            "cannot use the proxy in all_proxy: only HTTP proxies",
        );
    }

    #[test]
    fn no_proxy_names_hosts_to_call_directly() {
        let direct = |list: &str, url: &str| {
            check(
                url,
                &[("http_proxy", "p:1"), ("NO_PROXY", list)],
                "directly",
            )
        };
        let proxied =
            |list: &str, url: &str| check(url, &[("http_proxy", "p:1"), ("NO_PROXY", list)], "p:1");
        for url in [
            "http://localhost:8080",
            "http://127.3.2.1",
            "http://[::1]:8080",
        ] {
            direct("", url);
        }
        direct("*", "http://hub");
        direct("other, hub", "http://hub:8080");
        direct("other hub", "http://hub");
        direct("HUB.Example.", "http://hub.example");
        for list in ["example", ".example", "*.example"] {
            direct(list, "http://hub.example");
            proxied(list, "http://hubexample");
        }
        proxied("hub.example", "http://example");
        proxied("hub", "http://hubs");
        proxied(", ,.,*.", "http://hub");
        direct("hub:8080", "http://hub:8080");
        proxied("hub:8080", "http://hub:8081");
        direct("hub:80", "http://hub");
        direct("10.0.0.7", "http://10.0.0.7:8080");
        proxied("0.0.7", "http://10.0.0.7:8080");
        direct("10.0.0.0/8", "http://10.9.0.7");
        proxied("10.0.0.0/8", "http://11.0.0.7");
        proxied("10.0.0.0/33,10.0.0.0/x", "http://10.0.0.0");
        direct("0.0.0.0/0", "http://11.0.0.7");
        direct("fd00::/8", "http://[fd12::1]:8080");
        direct("[fd12::1]:8080", "http://[fd12:0::1]:8080");
        direct("[fd12::1]", "http://[fd12::1]:8080");
        proxied("[fd12::1]:80", "http://[fd12::1]:8080");
        check(
            "http://hub",
            &[
                ("http_proxy", "p:1"),
                ("NO_PROXY", "hub"),
                ("no_proxy", "other"),
            ],
            "p:1",
        );
    }
}
