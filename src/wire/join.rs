//! What travels while a machine joins: its request, the hub's answer, and the code that both ends show.
//!
//! Pure. No key is in any of it: a machine sends the SHA-256 of the key that it has made.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::files::Hash;
use super::rights::RightsRow;

/// The name by which a joined machine asks for the hub while it shakes hands: it gets the hub's own certificate by it, whatever
/// other one the hub has. It is in no DNS (RFC 6761, 6.4).
#[cfg(feature = "tls")]
pub const SERVER_NAME: &str = "mesync-hub.invalid";
/// Header of the answer to a login: the SHA-256 of the certificate that will follow.
pub const NEXT_HEADER: &str = "mesync-next-certificate";
/// Seconds between two questions of a machine that waits to be let in.
pub const ASK_INTERVAL: u64 = 2;

/// `POST /api/join`: asked again with the same content until it is accepted.
///
/// A machine commits to a number before the hub draws its own, and reveals it afterwards. So neither end, nor a relay between them,
/// can choose what the code will be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmissionRequest {
    pub name: String,
    /// SHA-256 of the key as text.
    pub key: Hash,
    /// SHA-256 of the machine's number.
    pub commitment: Hash,
    /// The machine's number, once it knows that of the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<Hash>,
    /// Take the place of the key that the name has.
    #[serde(default)]
    pub replace: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invitation: Option<String>,
}

/// The answer to [`AdmissionRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum AdmissionAnswer {
    /// The hub's number: to be answered with the machine's.
    Begun {
        number: Hash,
    },
    Pending,
    Accepted,
}

/// A machine that asks, as `GET /api/join/requests` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingMachine {
    pub name: String,
    pub address: String,
    pub code: String,
    /// How long ago it asked first.
    pub seconds: u64,
    /// The name has a key, whose place it asks for.
    pub replace: bool,
}

/// The answer of `GET /api/join/requests` and of `POST /api/join/accept`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequests {
    pub pending: Vec<WaitingMachine>,
    /// The latest ones that were let in, the oldest first.
    pub accepted: Vec<WaitingMachine>,
    /// For how long any machine is let in; `None`: each is accepted by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u64>,
}

/// `POST /api/join/accept`: one machine by its name, or for a while all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accept {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(default)]
    pub replace: bool,
    /// Seconds; 0 ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u64>,
    /// Of the machine, or of all while the window is open. `None`: the usual ones, or those of the key that is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rights: Option<RightsRow>,
}

/// The SHA-256 of a certificate in DER.
#[cfg(feature = "tls")]
pub fn fingerprint(certificate: &[u8]) -> Hash {
    Hash::of(certificate)
}

/// Six digits that a person compares at both ends.
pub fn code(
    fingerprint: &Hash,
    ask: &AdmissionRequest,
    number: &Hash,
    hubs_number: &Hash,
) -> String {
    let mut hash = Sha256::new_with_prefix(b"mesync join 1\0");
    for part in [fingerprint, &ask.key, number, hubs_number] {
        hash.update(part.0);
    }
    hash.update(ask.name.as_bytes());
    let first = hash.finalize();
    let first = first[..8].iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
    let digits = first % 1_000_000;
    format!("{:03}-{:03}", digits / 1000, digits % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_depends_on_all_that_both_ends_must_agree_on() {
        let ask = AdmissionRequest {
            name: "machine-2".into(),
            key: Hash([1; 32]),
            commitment: Hash([2; 32]),
            number: None,
            replace: false,
            invitation: None,
        };
        let (f, n, h) = (Hash([3; 32]), Hash([4; 32]), Hash([5; 32]));
        let right = code(&f, &ask, &n, &h);
        assert!(right.len() == 7 && right.as_bytes()[3] == b'-', "{right}");
        let name = AdmissionRequest {
            name: "machine-3".into(),
            ..ask.clone()
        };
        let key = AdmissionRequest {
            key: Hash([9; 32]),
            ..ask.clone()
        };
        let other = Hash([9; 32]);
        for wrong in [
            code(&other, &ask, &n, &h),
            code(&f, &name, &n, &h),
            code(&f, &key, &n, &h),
            code(&f, &ask, &other, &h),
            code(&f, &ask, &n, &other),
        ] {
            assert_ne!(right, wrong);
        }
    }
}
