//! Tokens, which a login returns: HS256 JWTs (RFC 7519) of exactly one form.
//!
//! Pure: it takes the secret and the time as values, and does not know the keys.

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// Seconds that a token is valid.
pub const LIFETIME: u64 = 86_400;

/// `{"alg":"HS256","typ":"JWT"}`: the only header that is written or accepted, so no token chooses its own algorithm.
const HEADER: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9";

/// Seconds by which the hub's clock may have been set back since a token was issued.
const LENIENCE: u64 = 300;

/// Bytes of a token at most; the MAC of a longer one is not computed.
const MAX_LENGTH: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The host's name, or `admin`, for people and other programs.
    pub sub: String,
    /// Identifies the key that it was issued for, which decides its rights.
    pub kid: String,
    /// Seconds since 1970, by the hub's clock, like `exp`.
    pub iat: u64,
    pub exp: u64,
}

/// Whether the text has the form of a token; any other is a key.
pub fn is_token(text: &str) -> bool {
    text.strip_prefix(HEADER)
        .is_some_and(|rest| rest.starts_with('.'))
}

pub fn issue(secret: &[u8], sub: &str, kid: String, now: u64) -> String {
    let claims = Claims {
        sub: sub.to_string(),
        kid,
        iat: now,
        exp: now + LIFETIME,
    };
    // a struct of strings and numbers can always be serialized
    let json = serde_json::to_vec(&claims).unwrap_or_default();
    let signed = format!("{HEADER}.{}", encode(&json));
    let mac = encode(&mac(secret, signed.as_bytes()).finalize().into_bytes());
    format!("{signed}.{mac}")
}

/// The claims of a token that this hub made and that has not expired. Nothing in it is parsed before its MAC was verified.
pub fn verify(secret: &[u8], token: &str, now: u64) -> Option<Claims> {
    if token.len() > MAX_LENGTH || !is_token(token) {
        return None;
    }
    let (signed, code) = token.rsplit_once('.')?;
    mac(secret, signed.as_bytes())
        .verify_slice(&decode(code)?)
        .ok()?;
    let (_, claims) = signed.split_once('.')?;
    let claims: Claims = serde_json::from_slice(&decode(claims)?).ok()?;
    // the second condition refuses tokens that were issued while the clock was far ahead
    (now < claims.exp && claims.exp <= now.saturating_add(LIFETIME + LENIENCE)).then_some(claims)
}

/// A short keyed hash for the key in a token: it reveals nothing about the key, and guesses cannot be tested against it.
pub fn fingerprint(secret: &[u8], hash: &[u8]) -> String {
    let code = mac(secret, b"key ")
        .chain_update(hash)
        .finalize()
        .into_bytes();
    encode(&code[..9])
}

fn mac(secret: &[u8], text: &[u8]) -> Hmac<Sha256> {
    // HMAC accepts keys of every length: it hashes long ones and pads short ones
    #[allow(clippy::expect_used)]
    Hmac::<Sha256>::new_from_slice(secret)
        .expect("HMAC takes keys of any length")
        .chain_update(text)
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// base64url without padding (RFC 4648, section 5).
pub(super) fn encode(bytes: &[u8]) -> String {
    let group = |three: &[u8]| {
        let n = three.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - three.len()));
        (0..=three.len()).map(move |i| char::from(ALPHABET[(n >> (18 - 6 * i)) as usize & 63]))
    };
    bytes.chunks(3).flat_map(group).collect()
}

/// Accepts one spelling only: surplus bits at the end must be zero.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    for four in text.as_bytes().chunks(4) {
        let mut n = 0u32;
        for letter in four {
            n = n << 6 | ALPHABET.iter().position(|a| a == letter)? as u32;
        }
        n <<= 6 * (4 - four.len());
        let three = &n.to_be_bytes()[1..];
        let (whole, surplus) = three.split_at(four.len() - 1);
        if four.len() == 1 || surplus.iter().any(|b| *b != 0) {
            return None;
        }
        bytes.extend_from_slice(whole);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_257_000;

    /// A token with this text between header and MAC, signed with `secret`.
    fn signed(header: &str, claims: &str) -> String {
        let signed = format!("{header}.{}", encode(claims.as_bytes()));
        format!(
            "{signed}.{}",
            encode(&mac(b"secret", signed.as_bytes()).finalize().into_bytes())
        )
    }

    #[test]
    fn base64url_has_one_spelling() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg"),
            (b"fo", "Zm8"),
            (b"foo", "Zm9v"),
            (&[251, 255], "-_8"),
        ] {
            assert_eq!(
                (encode(bytes).as_str(), decode(text).as_deref()),
                (text, Some(bytes))
            );
        }
        for wrong in ["Z", "Zh", "Zm9", "Zg==", "Z+8", "Zm9vZ", "Zm 9"] {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
        assert_eq!(
            decode(HEADER).as_deref(),
            Some(&br#"{"alg":"HS256","typ":"JWT"}"#[..])
        );
    }

    #[test]
    fn a_token_is_good_for_its_day_and_no_other() {
        let token = issue(b"secret", "web-1", "web-1:abc".into(), NOW);
        let valid = |token: &str, secret: &[u8], now: u64| verify(secret, token, now).is_some();
        assert_eq!(
            verify(b"secret", &token, NOW).map(|c| (c.sub, c.kid)),
            Some(("web-1".into(), "web-1:abc".into()))
        );
        assert!(
            valid(&token, b"secret", NOW + LIFETIME - 1)
                && valid(&token, b"secret", NOW - LENIENCE)
        );
        assert!(
            !valid(&token, b"secret", NOW + LIFETIME)
                && !valid(&token, b"secret", NOW - LENIENCE - 1)
        );
        assert!(!valid(&token, b"other", NOW));
    }

    #[test]
    fn only_one_form_is_accepted() {
        let claims = format!(
            r#"{{"sub":"admin","kid":"k","iat":{NOW},"exp":{}}}"#,
            NOW + 60
        );
        let right = signed(HEADER, &claims);
        assert!(verify(b"secret", &right, NOW).is_some());
        let none = encode(br#"{"alg":"none","typ":"JWT"}"#);
        let spaced = encode(br#"{"alg": "HS256","typ":"JWT"}"#);
        let (body, code) = right.rsplit_once('.').unwrap();
        for wrong in [
            signed(&none, &claims),
            signed(&spaced, &claims),
            signed(HEADER, "{}"),
            signed(HEADER, "not JSON"),
            format!("{none}.{}.", encode(claims.as_bytes())),
            format!("{body}."),
            format!("{body}.{}", &code[..42]),
            format!("{right}."),
            format!("{right}.{code}"),
            format!("{right}="),
            right.replacen(&body[HEADER.len() + 1..HEADER.len() + 5], "AAAA", 1),
            HEADER.into(),
            format!("{HEADER}."),
            String::new(),
            format!("{HEADER}.{}", "a.".repeat(1000)),
        ] {
            assert_eq!(verify(b"secret", &wrong, NOW), None, "{wrong}");
        }
    }
}
