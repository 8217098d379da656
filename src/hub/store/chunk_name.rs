//! The names of chunks in a bucket. Pure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::wire::files::Hash;

/// The name of the object with a chunk's bytes. It is never used twice, so a late request to delete it does no harm.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChunkName {
    pub hash: Hash,
    /// When it was made: milliseconds since 1970, by the store's clock.
    pub made: u64,
    pub random: u64,
}

impl ChunkName {
    /// The prefix of all such names.
    pub const PREFIX: &'static str = "chunks/";
}

impl fmt::Display for ChunkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hash = self.hash.to_string();
        let (made, random) = (self.made, self.random);
        write!(
            f,
            "{}{}/{hash}.{made}-{random:016x}",
            ChunkName::PREFIX,
            &hash[..2]
        )
    }
}

impl FromStr for ChunkName {
    type Err = String;

    fn from_str(text: &str) -> Result<ChunkName, String> {
        let read = || {
            let (_, name) = text.strip_prefix(ChunkName::PREFIX)?.split_once('/')?;
            let (hash, rest) = name.split_once('.')?;
            let (made, random) = rest.split_once('-')?;
            let name = ChunkName {
                hash: hash.parse().ok()?,
                made: made.parse().ok()?,
                random: u64::from_str_radix(random, 16).ok()?,
            };
            (name.to_string() == text).then_some(name)
        };
        read().ok_or_else(|| format!("\"{}\" names no chunk", crate::wire::brief(text)))
    }
}

impl Serialize for ChunkName {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ChunkName {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<ChunkName, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}
