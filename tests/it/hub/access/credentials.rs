//! What callers show: keys and tokens that are right, and all that are nearly.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{MASTER, Rig, Who};
use hmac::{Hmac, KeyInit, Mac};
use mesync::internals::hub::{keys, token};

pub(super) fn api_key(key: &str) -> String {
    format!("X-API-Key: {key}\r\n")
}

pub(super) fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// base64url without padding.
fn encode(bytes: &[u8]) -> String {
    let letter = |n: u32| {
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[n as usize & 63] as char
    };
    let group = |three: &[u8]| {
        let n = three.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        (0..=three.len())
            .map(|i| letter(n >> (18 - 6 * i)))
            .collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

/// A token with another header than the hub's, signed by `sign`.
fn with_header(good: &str, header: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let claims = good.split('.').nth(1).unwrap();
    let signed = format!("{}.{claims}", encode(header.as_bytes()));
    let code = encode(&sign(signed.as_bytes()));
    format!("{signed}.{code}")
}

fn hs256(secret: &str, text: &[u8]) -> Vec<u8> {
    Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes())
        .unwrap()
        .chain_update(text)
        .finalize()
        .into_bytes()
        .to_vec()
}

fn hs512(secret: &str, text: &[u8]) -> Vec<u8> {
    Hmac::<sha2::Sha512>::new_from_slice(secret.as_bytes())
        .unwrap()
        .chain_update(text)
        .finalize()
        .into_bytes()
        .to_vec()
}

/// Invalid credentials, some of them nearly valid: (description, headers).
pub(super) fn false_ones(rig: &Rig) -> Vec<(&'static str, String)> {
    let (secret, now) = (
        rig.secret(),
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs(),
    );
    let kid = format!(
        "web-1:{}",
        token::fingerprint(secret.as_bytes(), &keys::hash(&rig.key))
    );
    let made = |secret: &str, kid: &str, at: u64| {
        token::issue(secret.as_bytes(), "web-1", kid.to_string(), at)
    };
    let good = made(&secret, &kid, now);
    // what makes it good is what the others lack
    rig.check(
        "a token that the test has made",
        Who::Host,
        "hub",
        &bearer(&good),
    );
    let ours = with_header(&good, r#"{"alg":"HS256","typ":"JWT"}"#, |text| {
        hs256(&secret, text)
    });
    assert_eq!(ours, good);
    let removed = rig.login(&rig.removed).unwrap();
    rig.world.hub_ok(&["key", "remove", "web-5"]);
    let half = &rig.key[..rig.key.len() / 2];
    vec![
        ("no key", String::new()),
        ("an empty key", api_key("")),
        ("a wrong key", api_key("wrong-key-wrong-key")),
        ("a wrong key as bearer", bearer("wrong-key-wrong-key")),
        ("half a key", api_key(half)),
        ("a key in capitals", api_key(&rig.key.to_ascii_uppercase())),
        (
            "a hash of a key",
            api_key(&keys::hash(&rig.key).map(|b| format!("{b:02x}")).concat()),
        ),
        (
            "a key as basic",
            format!(
                "Authorization: Basic {}\r\n",
                encode(format!("web-1:{}", rig.key).as_bytes())
            ),
        ),
        ("a removed key", api_key(&rig.removed)),
        ("a token of a removed key", bearer(&removed)),
        (
            "an expired token",
            bearer(&made(&secret, &kid, now - token::LIFETIME - 1)),
        ),
        (
            "a token from the far future",
            bearer(&made(&secret, &kid, now + 86_400)),
        ),
        (
            "a token of another hub",
            bearer(&made("another hub's secret: 32 characters", &kid, now)),
        ),
        (
            "a token of another key",
            bearer(&made(&secret, "web-1:AAAAAAAAAAAA", now)),
        ),
        (
            "a token of a host without a key",
            bearer(&made(&secret, &kid.replace("web-1", "web-7"), now)),
        ),
        (
            "a token for the master key without it",
            bearer(&made(&secret, &kid.replace("web-1", "*master"), now)),
        ),
        (
            "a token of protected mode",
            bearer(&made(&secret, "*protected", now)),
        ),
        (
            "a token of an open hub",
            bearer(&made(&secret, "*anonymous", now)),
        ),
        ("a token as key", api_key(&made("another", &kid, now))),
        (
            "no algorithm",
            bearer(&with_header(&good, r#"{"alg":"none","typ":"JWT"}"#, |_| {
                Vec::new()
            })),
        ),
        (
            "no algorithm, signed",
            bearer(&with_header(
                &good,
                r#"{"alg":"none","typ":"JWT"}"#,
                |text| hs256(&secret, text),
            )),
        ),
        (
            "HS512",
            bearer(&with_header(
                &good,
                r#"{"alg":"HS512","typ":"JWT"}"#,
                |text| hs512(&secret, text),
            )),
        ),
        (
            "RS256",
            bearer(&with_header(
                &good,
                r#"{"alg":"RS256","typ":"JWT"}"#,
                |text| hs256(&secret, text),
            )),
        ),
        (
            "a header with more in it",
            bearer(&with_header(
                &good,
                r#"{"alg":"HS256","typ":"JWT","kid":"x"}"#,
                |text| hs256(&secret, text),
            )),
        ),
        ("no signature", bearer(good.rsplit_once('.').unwrap().0)),
        ("half a signature", bearer(&good[..good.len() - 20])),
        (
            "a wrong key before the right token",
            api_key("wrong-key-wrong-key") + &bearer(&good),
        ),
        (
            "a wrong key and a foreign page",
            api_key("wrong-key-wrong-key") + "Origin: http://hub\r\n",
        ),
        ("a key in a cookie", format!("Cookie: key={}\r\n", rig.key)),
    ]
}

/// The ways to show a key that count, and what does not matter beside it.
pub(super) fn true_ones(rig: &Rig) -> Vec<(&'static str, Who, &'static str, String)> {
    let (host, admin) = (&rig.key, MASTER);
    let token = |key: &str| bearer(&rig.login(key).unwrap());
    vec![
        ("a host's key", Who::Host, "hub", api_key(host)),
        ("a host's key as bearer", Who::Host, "hub", bearer(host)),
        ("a host's token", Who::Host, "hub", token(host)),
        (
            "a host's key and a wrong token",
            Who::Host,
            "hub",
            api_key(host) + &bearer("wrong-key-wrong-key"),
        ),
        (
            "a host's key on a page",
            Who::Host,
            "hub",
            api_key(host) + "Origin: http://evil.example\r\nSec-Fetch-Site: cross-site\r\n",
        ),
        (
            "a host's key under another name",
            Who::Host,
            "evil.example",
            api_key(host),
        ),
        (
            "a host's key through a proxy",
            Who::Host,
            "hub",
            api_key(host) + "X-Forwarded-For: 127.0.0.1\r\n",
        ),
        ("the master key", Who::Admin, "hub", api_key(admin)),
        ("a token of the master key", Who::Admin, "hub", token(admin)),
        (
            "the hub's own key",
            Who::Admin,
            "hub",
            api_key(&rig.local()),
        ),
        (
            "a token of the hub's own key",
            Who::Admin,
            "hub",
            token(&rig.local()),
        ),
    ]
}
