//! Invitations: each admits one machine once, until it expires. Only their hashes are stored, in `invitations.toml`.
//!
//! Commands edit the file while the hub runs. `keys` stores the key of an admitted machine.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use super::bucket::shared_files::DataFileEdit;
use super::data_dir;
use super::keys::{self, KeyPlacing};
use super::rights::Rights;
use crate::config::limits;
use crate::error::{Error, Kind, Result, plain};
use crate::wire::files::Hash;
use crate::wire::join::AdmissionRequest;
use crate::wire::rights::RightsRow;
use crate::{clock, disk};

const FILE: &str = "invitations.toml";
const LOCK_FILE: &str = "invitations.lock";
/// Bytes of the file at most: a row has about 200, more with many directories.
const MAX_FILE_BYTES: usize = limits::INVITATIONS * 1024;

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InvitationsFile {
    #[serde(rename = "invitation", default)]
    rows: Vec<Row>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    sha256: Hash,
    until: String,
    #[serde(default)]
    replace: bool,
    /// `None`: the default rights, or those of the replaced key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rights: Option<RightsRow>,
}

impl Row {
    fn is_valid(&self) -> bool {
        clock::parse_rfc3339(&self.until).is_some_and(|until| clock::now() < until)
    }
}

/// Makes an invitation for a machine and returns its secret, which is not stored.
pub fn invite(
    data_dir: &Path,
    name: &str,
    time: Duration,
    replace: bool,
    rights: Option<&Rights>,
) -> Result<String> {
    if !replace && keys::list_keys(data_dir)?.iter().any(|k| k.name == name) {
        return Err(keys::taken(name, "invite"));
    }
    let secret = keys::random();
    edit(data_dir, |rows| {
        // a new invitation replaces older ones for its name
        rows.retain(|row| row.is_valid() && row.name != name);
        if rows.len() >= limits::INVITATIONS {
            let what = format!(
                "cannot invite {name}: {} invitations are open",
                limits::INVITATIONS
            );
            return Err(
                Error::new(Kind::Failed, what).hint("wait until some are used or have expired")
            );
        }
        rows.push(Row {
            name: name.into(),
            sha256: Hash::of(secret.as_bytes()),
            until: clock::rfc3339(clock::now() + time),
            replace,
            rights: rights.map(Rights::row),
        });
        Ok(())
    })?;
    Ok(secret)
}

/// Admits the machine with this secret, and removes the invitation. `false`: there is none.
pub fn redeem(data_dir: &Path, ask: &AdmissionRequest, secret: &str) -> Result<bool> {
    let shown = Hash::of(secret.as_bytes());
    // a guess leaves nothing on the disk
    if !data_dir.join(FILE).exists() {
        return Ok(false);
    }
    let mut found = None;
    edit(data_dir, |rows| {
        let right = |row: &Row| row.name == ask.name && bool::from(row.sha256.0.ct_eq(&shown.0));
        found = rows.iter().position(|row| row.is_valid() && right(row));
        if let Some(at) = found {
            let row = rows.remove(at);
            let placing = if row.replace {
                KeyPlacing::Replace
            } else {
                KeyPlacing::New
            };
            let rights = row.rights.map(Rights::read).transpose();
            let rights = rights.map_err(|why| bad_file(data_dir, &why))?;
            // before the row is removed: a machine that asks again is recognised by its key
            keys::add_hash(data_dir, &ask.name, ask.key.0, placing, rights)?;
        }
        Ok(())
    })?;
    Ok(found.is_some())
}

/// Reads, changes and writes the file under its lock. On an error the file is unchanged.
fn edit(data_dir: &Path, change: impl FnOnce(&mut Vec<Row>) -> Result<()>) -> Result<()> {
    let _held = keys::lock(data_dir, LOCK_FILE)?;
    let path = data_dir.join(FILE);
    let file = DataFileEdit::begin(data_dir, FILE)?;
    let bad = |why: &str| bad_file(data_dir, why);
    let text = match disk::read_at_most(&path, MAX_FILE_BYTES) {
        Ok(bytes) => String::from_utf8(bytes).map_err(|_| bad("it is not UTF-8"))?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(bad(&plain(&e))),
    };
    let mut document: InvitationsFile = toml::from_str(&text).map_err(|e| bad(e.message()))?;
    let before = document.rows.clone();
    change(&mut document.rows)?;
    if document.rows == before {
        return Ok(());
    }
    let text = toml::to_string(&document).map_err(|e| bad(&e.to_string()))?;
    if text.len() > MAX_FILE_BYTES {
        let what = format!("cannot change {}: it would be too long", path.display());
        return Err(Error::new(Kind::Failed, what).hint("wait until some invitations are used"));
    }
    file.write(text.as_bytes())?;
    data_dir::give_to_owner(data_dir, &path)
}

fn bad_file(data_dir: &Path, why: &str) -> Error {
    let path = data_dir.join(FILE);
    Error::new(
        Kind::Settings,
        format!("cannot read the invitations in {}: {why}", path.display()),
    )
    .hint("remove the file, and invite again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::rights::FileAccess;

    fn ask(name: &str, key: u8) -> AdmissionRequest {
        AdmissionRequest {
            name: name.into(),
            key: Hash([key; 32]),
            commitment: Hash([0; 32]),
            number: None,
            replace: false,
            invitation: None,
        }
    }

    #[test]
    fn an_invitation_is_good_once_for_its_name_and_until_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let day = Duration::from_secs(86_400);
        let secret = invite(dir, "a", day, false, None).unwrap();
        let text = std::fs::read_to_string(dir.join(FILE)).unwrap();
        assert!(!text.contains(&secret), "{text}");
        assert!(!redeem(dir, &ask("b", 1), &secret).unwrap());
        assert!(!redeem(dir, &ask("a", 1), "another").unwrap());
        assert!(redeem(dir, &ask("a", 1), &secret).unwrap());
        assert!(!redeem(dir, &ask("a", 2), &secret).unwrap());
        assert_eq!(keys::list_keys(dir).unwrap()[0].hash, [1; 32]);
        assert!(invite(dir, "a", day, false, None).is_err());
        let again = invite(dir, "a", day, true, None).unwrap();
        assert!(redeem(dir, &ask("a", 3), &again).unwrap());
        assert_eq!(keys::list_keys(dir).unwrap()[0].hash, [3; 32]);
        let limited = Rights {
            access: FileAccess::ReadOnly,
            ..Rights::default()
        };
        let limits = invite(dir, "a", day, true, Some(&limited)).unwrap();
        assert!(redeem(dir, &ask("a", 4), &limits).unwrap());
        assert_eq!(*keys::list_keys(dir).unwrap()[0].rights, limited);
        // a reinstalled machine has its former rights
        let again = invite(dir, "a", day, true, None).unwrap();
        assert!(redeem(dir, &ask("a", 5), &again).unwrap());
        let key = keys::list_keys(dir).unwrap().remove(0);
        assert_eq!((key.hash, &*key.rights), ([5; 32], &limited));
        let over = invite(dir, "c", Duration::ZERO, false, None).unwrap();
        assert!(!redeem(dir, &ask("c", 4), &over).unwrap());
    }

    #[test]
    fn the_second_invitation_of_a_name_ends_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let day = Duration::from_secs(86_400);
        let first = invite(dir.path(), "a", day, false, None).unwrap();
        let second = invite(dir.path(), "a", day, false, None).unwrap();
        assert!(!redeem(dir.path(), &ask("a", 1), &first).unwrap());
        assert!(redeem(dir.path(), &ask("a", 1), &second).unwrap());
    }
}
