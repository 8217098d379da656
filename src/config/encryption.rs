//! Values of settings for encryption: which clients may use plain HTTP, and which certificates a
//! hub has.

use super::PlainHttp;
use super::values::Parsed;
use crate::wire;
use crate::wire::files::Hash;

pub fn plain(text: &str) -> Parsed<PlainHttp> {
    match text.trim() {
        "all" => Ok(PlainHttp::All),
        "local" => Ok(PlainHttp::Local),
        "none" => Ok(PlainHttp::None),
        _ => Err(format!(
            "must be all, local or none, not \"{}\"",
            wire::brief(text)
        )),
    }
}

/// One fingerprint, or two while a certificate is replaced.
pub fn fingerprints(text: &str) -> Parsed<Vec<Hash>> {
    if cfg!(not(feature = "tls")) {
        return Err("this program was built without TLS".into());
    }
    text.split([',', ' '])
        .filter(|part| !part.is_empty())
        .map(str::parse)
        .collect()
}
