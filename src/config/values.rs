//! Values of settings: from text to what it means, with an error that says what would have been right.
//!
//! It knows no setting by name.

use std::path::PathBuf;
use std::time::Duration;

use super::Reserve;
use crate::wire;

pub type Parsed<T> = std::result::Result<T, String>;

pub fn number(text: &str, least: u64, most: u64) -> Parsed<u64> {
    let wrong = || format!("must be a whole number from {least} to {most}, not \"{}\"", wire::brief(text));
    text.trim().parse().ok().filter(|n| (least..=most).contains(n)).ok_or_else(wrong)
}

pub fn seconds(text: &str, least: u64, most: u64) -> Parsed<Duration> {
    number(text, least, most).map(Duration::from_secs)
}

/// `4096`, `64KB`, `256MB`, `8GB`, `1TB`, or with `i` for powers of 1024.
pub fn bytes(text: &str, least: u64, most: u64) -> Parsed<u64> {
    let wrong = || format!("must be a size such as 64MB, from {least} to {most} bytes, not \"{}\"", wire::brief(text));
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
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
    let n: Option<u64> = text[..digits].parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    n.filter(|n| (least..=most).contains(n)).ok_or_else(wrong)
}

pub fn reserve(text: &str) -> Parsed<Reserve> {
    match text.trim().strip_suffix('%') {
        Some(percent) => {
            let wrong = || format!("must be from 0% to 90%, not \"{}\"", wire::brief(text));
            percent.trim().parse().ok().filter(|p| (0.0..=90.0).contains(p)).map(Reserve::Percent).ok_or_else(wrong)
        }
        None => bytes(text, 0, 1_000_000_000_000).map(Reserve::Bytes),
    }
}

/// An absolute path; `~/` is the home directory.
pub fn path(text: &str) -> Parsed<PathBuf> {
    if text == "~" || text.starts_with("~/") {
        let home = std::env::home_dir().filter(|h| h.is_absolute()).ok_or("~ needs HOME, which is not set")?;
        return Ok(home.join(text[1..].trim_start_matches('/')));
    }
    std::path::absolute(text).map_err(|e| format!("not a path: {e}"))
}

pub fn url(text: &str) -> Parsed<String> {
    let text = text.trim().trim_end_matches('/');
    let wrong = |why: &str| format!("must be a URL such as http://hub.example:8080, not \"{}\": {why}", wire::brief(text));
    let rest = match text.split_once("://") {
        Some(("http", rest)) => rest,
        Some(("https", rest)) if cfg!(feature = "tls") => rest,
        Some(("https", _)) => return Err(wrong("this program was built without TLS")),
        _ => return Err(wrong("it must begin with http:// or https://")),
    };
    if rest.is_empty() || rest.starts_with(['/', ':']) || rest.contains(char::is_whitespace) || rest.contains(['?', '#']) {
        return Err(wrong("the host is missing or something follows it"));
    }
    if rest.split('/').next().is_some_and(|authority| authority.contains('@')) {
        return Err(wrong("a key does not belong in it; use MESYNC_API_KEY"));
    }
    Ok(text.to_string())
}

pub fn listen(text: &str) -> Parsed<String> {
    let text = text.trim();
    let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_string() };
    match full.parse::<std::net::SocketAddr>() {
        Ok(address) => Ok(address.to_string()),
        Err(_) => Err(format!("must be an address and a port such as 0.0.0.0:8080 or [::]:8080, not \"{}\"", wire::brief(text))),
    }
}

/// A key as it may be written in a setting or a file.
pub fn check_key(text: &str) -> Parsed<String> {
    let text = text.trim();
    match (8..=512).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(text.to_string()),
        // never the value: it is a secret
        false => Err("a key is 8 to 512 printable characters without spaces".into()),
    }
}

pub fn level(text: &str) -> Parsed<log::LevelFilter> {
    match text.trim() {
        "error" => Ok(log::LevelFilter::Error),
        "warn" => Ok(log::LevelFilter::Warn),
        "info" => Ok(log::LevelFilter::Info),
        "debug" => Ok(log::LevelFilter::Debug),
        _ => Err(format!("must be error, warn, info or debug, not \"{}\"", wire::brief(text))),
    }
}
