//! The identity of a revision: its number, and the tag of the commit that made it.
//!
//! A number alone does not identify a revision: a hub whose disk is set back gives the same numbers
//! again, to other changes. Pure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// Points of a hub's history that a client remembers and sends in one request, at most.
pub const POINTS: usize = 1024;

/// Drawn at random for each commit of the hub; its text is 16 hexadecimal digits. 0: unknown, like
/// the tag of everything from before tags existed.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub u64);

impl Tag {
    pub fn is_unknown(&self) -> bool {
        self.0 == 0
    }
}

/// The tag of a random number.
impl From<Uuid> for Tag {
    fn from(drawn: Uuid) -> Tag {
        let (high, low) = drawn.as_u64_pair();
        Tag((high ^ low).max(1))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Tag {
    type Err = String;

    fn from_str(text: &str) -> Result<Tag, String> {
        let plain = text.len() == 16
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let read = if plain {
            u64::from_str_radix(text, 16).ok()
        } else {
            None
        };
        read.map(Tag).ok_or_else(|| {
            format!(
                "a tag is 16 hexadecimal digits, not \"{}\"",
                super::brief(text)
            )
        })
    }
}

impl Serialize for Tag {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Tag {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Tag, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// One revision of one hub, or a position in the order of all of them.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Revision {
    pub rev: u64,
    pub tag: Tag,
}

impl Revision {
    /// Whether both name the same revision; an unknown tag contradicts none.
    pub fn is(&self, other: Revision) -> bool {
        self.rev == other.rev
            && (self.tag == other.tag || self.tag.is_unknown() || other.tag.is_unknown())
    }

    /// `"7-9f3ac04be1d2a377"`, quotes included; `"7"` if the tag is unknown.
    pub fn etag(&self) -> String {
        if self.tag.is_unknown() {
            format!("\"{}\"", self.rev)
        } else {
            format!("\"{}-{}\"", self.rev, self.tag)
        }
    }

    /// Reads a strong entity tag of either form.
    pub fn parse(etag: &str) -> Option<Revision> {
        let text = etag.trim().strip_prefix('"')?.strip_suffix('"')?;
        let (digits, tag) = match text.split_once('-') {
            Some((digits, tag)) => (digits, tag.parse().ok()?),
            None => (text, Tag::default()),
        };
        let rev = digits
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| digits.parse().ok())??;
        Some(Revision { rev, tag })
    }
}

/// The condition of a change on the current revision of its name; if it is false, nothing changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    /// Always true: the last writer wins, and the replaced revision becomes a version.
    #[default]
    None,
    /// `If-Match: "<rev>-<tag>"`, or `"<rev>"`, which matches any tag: this revision is current.
    Match(Revision),
    /// `If-None-Match: *`: the name has no file, or it is deleted.
    Absent,
}

/// A revision of which only the number is known.
impl From<u64> for Revision {
    fn from(rev: u64) -> Revision {
        Revision {
            rev,
            tag: Tag::default(),
        }
    }
}

/// The body of `POST /api/files/common`: revisions that a client knows, at most [`POINTS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommonQuery {
    /// The epoch of the hub that they are from.
    pub epoch: Uuid,
    pub points: Vec<(u64, Tag)>,
}

/// The response: the last revision that is in both histories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommonAnswer {
    /// 0: they have nothing in common.
    pub common: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entity_tags_name_number_and_commit() {
        let both = Revision {
            rev: 7,
            tag: Tag(0x9f3a_c04b_e1d2_a377),
        };
        assert_eq!(
            (both.etag().as_str(), Revision::parse(&both.etag())),
            ("\"7-9f3ac04be1d2a377\"", Some(both))
        );
        assert_eq!(
            (
                Revision::from(7).etag().as_str(),
                Revision::parse(" \"7\" ")
            ),
            ("\"7\"", Some(7.into()))
        );
        for wrong in [
            "",
            "7",
            "W/\"7\"",
            "\"7",
            "\"\"",
            "\"x\"",
            "\"7-\"",
            "\"7-9f3\"",
            "\"7-9F3AC04BE1D2A377\"",
            "\"-9f3ac04be1d2a377\"",
            "\"+7\"",
        ] {
            assert_eq!(Revision::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_unknown_tag_contradicts_no_other() {
        let at = |rev, tag| Revision { rev, tag: Tag(tag) };
        assert!(at(7, 1).is(at(7, 1)) && at(7, 0).is(at(7, 1)) && at(7, 1).is(at(7, 0)));
        assert!(!at(7, 1).is(at(7, 2)) && !at(7, 0).is(at(8, 0)));
    }
}
