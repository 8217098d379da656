//! The small files that all hubs of a bucket share: keys, invitations, the secret of tokens and the certificate. Each version is
//! an object `files/<name>/<20 digits>` that is created once, so of two edits at the same time one is refused.
//!
//! Commands edit the files of a data directory without a running hub, so the directory itself says which bucket it belongs to.
//! A hub looks for new versions every few seconds. What a file means is decided elsewhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::objects::{ObjectStore, PutIf, PutOutcome, sure};
use super::s3::S3;
use super::{read_json, to_json};
use crate::config::bucket::{AccessKey, BucketUrl};
use crate::config::limits;
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::tls::Trust;

/// The shared files.
const NAMES: [&str; 6] = [
    "keys.toml",
    "invitations.toml",
    "approvals",
    "token.secret",
    "tls.pem",
    "tls-next.pem",
];
const PREFIX: &str = "files/";
/// Which bucket the data directory belongs to; private, since it has the access key.
const LINK_FILE: &str = "bucket.json";
/// How often a hub looks for new versions.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// The content of [`LINK_FILE`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketLink {
    pub url: String,
    pub region: String,
    pub key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

impl BucketLink {
    pub fn open(&self) -> Result<S3> {
        let bad = |why: String| {
            Error::new(
                Kind::Settings,
                format!("cannot use the bucket {}: {why}", self.url),
            )
        };
        let url = BucketUrl::parse(&self.url).map_err(bad)?;
        let key =
            AccessKey::parse(&self.key).map_err(|why| bad(format!("its access key {why}")))?;
        let trust = self.ca_file.as_deref().map(Trust::read).transpose()?;
        Ok(S3::new(url, self.region.clone(), key, trust.as_ref()))
    }

    /// The data directory belongs to this bucket from now on; `None`: to none.
    pub fn record(link: Option<&BucketLink>, data_dir: &Path) -> Result<()> {
        let path = data_dir.join(LINK_FILE);
        match link {
            Some(link) => disk::write_durably(&path, &to_json(link), 0o600),
            None => match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    Err(Error::io(format!("remove {}", path.display()), &e))
                }
                _ => Ok(()),
            },
        }
    }

    fn of(data_dir: &Path) -> Result<Option<BucketLink>> {
        match disk::read_at_most(&data_dir.join(LINK_FILE), limits::KEYS) {
            Ok(bytes) => read_json(LINK_FILE, &bytes).map(Some),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(
                format!("read {}", data_dir.join(LINK_FILE).display()),
                &e,
            )),
        }
    }
}

/// The shared files of one data directory.
pub struct SharedFiles {
    objects: Arc<dyn ObjectStore>,
    data_dir: PathBuf,
}

impl SharedFiles {
    pub fn new(objects: Arc<dyn ObjectStore>, data_dir: &Path) -> SharedFiles {
        SharedFiles {
            objects,
            data_dir: data_dir.into(),
        }
    }

    /// The latest version of each file.
    fn versions(&self) -> Result<BTreeMap<String, u64>> {
        let mut latest = BTreeMap::new();
        for row in sure(self.objects.as_ref(), || self.objects.list(PREFIX, ""))? {
            let version = row
                .name
                .strip_prefix(PREFIX)
                .and_then(|rest| rest.rsplit_once('/'));
            if let Some((name, Ok(version))) =
                version.map(|(name, version)| (name, version.parse::<u64>()))
            {
                // sorted, so the last one is the latest
                latest.insert(name.to_string(), version);
            }
        }
        Ok(latest)
    }

    /// Brings the files of the directory up to date; a file that the bucket does not have is put there. `known`: the versions
    /// that the directory has already. Returns the latest versions of these and of all others.
    pub fn refresh_all(&self, known: &mut BTreeMap<String, u64>) -> Result<BTreeMap<String, u64>> {
        let latest = self.versions()?;
        for name in NAMES {
            match latest.get(name) {
                Some(version) if known.get(name) == Some(version) => {}
                Some(version) => {
                    self.fetch(name, *version)?;
                    known.insert(name.into(), *version);
                }
                None => {
                    if let Some(bytes) = self.local(name)? {
                        self.publish(name, 1, &bytes)?;
                    }
                }
            }
        }
        Ok(latest)
    }

    /// Makes the files of the directory the latest versions, if they are not. One that the directory lacks stays as it is.
    pub fn publish_all(&self) -> Result<()> {
        let latest = self.versions()?;
        for name in NAMES {
            let Some(bytes) = self.local(name)? else {
                continue;
            };
            let version = latest.get(name).copied().unwrap_or(0);
            let object_name = version_name(name, version);
            let objects = self.objects.as_ref();
            let there = match version {
                0 => None,
                _ => sure(objects, || objects.get(&object_name))?,
            };
            if there.is_none_or(|there| there.bytes != bytes) {
                self.publish(name, version + 1, &bytes)?;
            }
        }
        Ok(())
    }

    fn local(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let path = self.data_dir.join(name);
        match disk::read_at_most(&path, limits::KEYS * 4096) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(format!("read {}", path.display()), &e)),
        }
    }

    /// Writes a version into the directory; an empty one means that there is no such file any more.
    fn fetch(&self, name: &str, version: u64) -> Result<()> {
        let object_name = version_name(name, version);
        // a later version has replaced it: the next look finds that
        let Some(object) = sure(self.objects.as_ref(), || self.objects.get(&object_name))? else {
            return Ok(());
        };
        if self.local(name)?.unwrap_or_default() != object.bytes {
            self.write(name, &object.bytes)?;
        }
        Ok(())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.data_dir.join(name);
        if bytes.is_empty() {
            return match std::fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    Err(Error::io(format!("remove {}", path.display()), &e))
                }
                _ => Ok(()),
            };
        }
        disk::write_durably(&path, bytes, 0o600)?;
        crate::hub::data_dir::give_to_owner(&self.data_dir, &path)
    }

    /// `Kind::Busy`: another hub has made this version.
    fn publish(&self, name: &str, version: u64, bytes: &[u8]) -> Result<()> {
        let object_name = version_name(name, version);
        let objects = self.objects.as_ref();
        if sure(objects, || objects.put(&object_name, bytes, PutIf::Absent))? == PutOutcome::Failed
        {
            // our own, by an attempt whose response was lost?
            let there = sure(objects, || objects.get(&object_name))?;
            if there.is_none_or(|there| there.bytes != bytes) {
                let what = format!(
                    "cannot change {name} in the bucket: another hub has changed it at the same moment"
                );
                return Err(Error::new(Kind::Busy, what).hint("try again"));
            }
        }
        for row in sure(objects, || objects.list(&format!("{PREFIX}{name}/"), ""))? {
            if row.name < version_name(name, version.saturating_sub(1)) {
                sure(objects, || objects.delete(&row.name))?;
            }
        }
        Ok(())
    }
}

pub fn version_name(name: &str, version: u64) -> String {
    format!("{PREFIX}{name}/{version:020}")
}

/// 0: there is no such file.
pub fn latest_version(objects: &dyn ObjectStore, name: &str) -> Result<u64> {
    let prefix = format!("{PREFIX}{name}/");
    let rows = sure(objects, || objects.list(&prefix, ""))?;
    let numbers = rows
        .iter()
        .filter_map(|row| row.name.strip_prefix(&prefix)?.parse().ok());
    Ok(numbers.max().unwrap_or(0))
}

/// An edit of a file of a data directory, which may be shared. The caller holds the lock of the file.
pub struct DataFileEdit {
    path: PathBuf,
    /// With the version that the edit makes.
    shared: Option<(SharedFiles, u64)>,
}

impl DataFileEdit {
    /// The file is the latest one when this returns.
    pub fn begin(data_dir: &Path, name: &str) -> Result<DataFileEdit> {
        let link = if NAMES.contains(&name) {
            BucketLink::of(data_dir)?
        } else {
            None
        };
        let shared = match link {
            Some(link) => {
                let files = SharedFiles::new(Arc::new(link.open()?), data_dir);
                let version = files.versions()?.get(name).copied().unwrap_or(0);
                if version > 0 {
                    files.fetch(name, version)?;
                }
                Some((files, version + 1))
            }
            None => None,
        };
        Ok(DataFileEdit {
            path: data_dir.join(name),
            shared,
        })
    }

    pub fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// Replaces the file, first in the bucket.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        if let Some((files, version)) = &self.shared {
            files.publish(
                &self.path.file_name().unwrap_or_default().to_string_lossy(),
                *version,
                bytes,
            )?;
        }
        disk::write_durably(&self.path, bytes, 0o600)
    }

    /// Removes the file, first from the bucket.
    #[cfg(feature = "tls")]
    pub fn remove(&self) -> Result<()> {
        if let Some((files, version)) = &self.shared {
            files.publish(
                &self.path.file_name().unwrap_or_default().to_string_lossy(),
                *version,
                b"",
            )?;
        }
        std::fs::remove_file(&self.path)
            .map_err(|e| Error::io(format!("remove {}", self.path.display()), &e))
    }
}
