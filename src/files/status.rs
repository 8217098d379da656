//! The status of a synced directory for other commands: files beside its state, which only one
//! process can open.
//!
//! `KEY.json` has the status, `KEY.held` the deletes that the guard holds; `KEY.approve` and
//! `KEY.adopt` are requests of a user. They are hints for people: nothing is lost with them.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::engine::traits::DeleteToken;
use crate::disk;
use crate::error::{Error, Result};
use crate::wire::approvals::FileDelete;

/// Maximum size of a file of held or approved deletes: 100,000 of them with the longest names.
pub const MAX_TOKENS_BYTES: usize = 128 * 1024 * 1024;

/// The state of a directory, as a user sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DirectoryCondition {
    /// Nothing is known yet.
    #[default]
    Starting,
    #[serde(alias = "in-step")]
    InSync,
    /// Paths are pending, and workers are handling them.
    #[serde(alias = "working")]
    Syncing,
    /// A path fails, now or permanently: see the problems.
    Stuck,
    /// The directory was replaced or lost its marker: nothing is done there.
    Held,
    /// It cannot be opened.
    Failed,
}

/// A path and its problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedPath {
    pub path: String,
    pub why: String,
}

/// A number of paths, and the first of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Examples {
    pub count: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<String>,
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryStatus {
    /// As text; bytes that are not UTF-8 are replaced.
    pub dir: String,
    /// The name by which it was opened; if it contains links, it may lead elsewhere later.
    #[serde(default)]
    pub named: Option<String>,
    pub server: String,
    pub remote: String,
    pub mode: String,
    /// A process works on it. A process that died leaves this set.
    #[serde(default)]
    pub running: bool,
    pub condition: DirectoryCondition,
    /// One line for each problem, with its remedy.
    pub problems: Vec<String>,
    /// Files and links that were in sync.
    pub files: u64,
    /// Paths that are not in sync.
    #[serde(alias = "due")]
    pub pending: u64,
    pub held_deletes: u64,
    #[serde(alias = "refused")]
    pub unsyncable_count: u64,
    /// The first unsyncable paths.
    #[serde(alias = "cannot")]
    pub unsyncable: Vec<NamedPath>,
    /// Some of the paths that wait for long.
    #[serde(default)]
    pub waiting: Vec<NamedPath>,
    pub conflict_copies: u64,
    /// Names that are never synced: sockets and devices, names that are not UTF-8 or too long.
    pub special: Examples,
    pub names: Examples,
    /// Directories that cannot be read: their content is left untouched.
    pub unknown: Examples,
    pub watched: u64,
    pub unwatched: u64,
    /// RFC 3339.
    #[serde(alias = "in_step_since")]
    pub in_sync_since: Option<String>,
    pub at: String,
}

impl DirectoryStatus {
    /// The delete of `path`, of which the version in sync is `base`, as other machines know it.
    pub fn on_hub(&self, path: &str, base: u64) -> FileDelete {
        let name = match self.remote.as_str() {
            "" => path.to_string(),
            remote => format!("{remote}/{path}"),
        };
        FileDelete { name, rev: base }
    }
}

/// The status files of one directory.
#[derive(Debug, Clone)]
pub struct StatusFiles {
    state: PathBuf,
}

impl StatusFiles {
    pub fn beside(state: PathBuf) -> StatusFiles {
        StatusFiles { state }
    }

    /// The files of every directory that was ever synced below a base directory.
    pub fn all(base_dir: &Path) -> Vec<StatusFiles> {
        let entries = std::fs::read_dir(super::state::dir(base_dir))
            .into_iter()
            .flatten()
            .flatten();
        let mut all: Vec<PathBuf> = entries
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == "json"))
            .collect();
        all.sort();
        all.into_iter()
            .map(|path| StatusFiles {
                state: path.with_extension("redb"),
            })
            .collect()
    }

    pub fn state(&self) -> &Path {
        &self.state
    }

    pub fn read(&self) -> Option<DirectoryStatus> {
        serde_json::from_slice(&disk::read_at_most(&self.file("json"), 1024 * 1024).ok()?).ok()
    }

    /// Writes in place if there is no room for another file, because the status must not become
    /// stale.
    pub fn write(&self, status: &DirectoryStatus) -> Result<()> {
        let text = serde_json::to_vec(status).expect("plain data is JSON");
        self.put("json", &text)
            .or_else(|e| disk::overwrite(&self.file("json"), &text).map_err(|_| e))
    }

    /// The held deletes.
    pub fn held(&self) -> Vec<DeleteToken> {
        self.tokens("held")
    }

    pub fn write_held(&self, tokens: &[DeleteToken]) -> Result<()> {
        self.put("held", &lines(tokens))
    }

    /// Requests exactly these deletes.
    pub fn ask_approval(&self, tokens: &[DeleteToken]) -> Result<()> {
        self.put("approve", &lines(tokens))
    }

    /// The approved deletes, if there are any; the caller removes the file with [`StatusFiles::answered`]
    /// after recording them.
    pub fn approval(&self) -> Option<Vec<DeleteToken>> {
        self.file("approve")
            .exists()
            .then(|| self.tokens("approve"))
    }

    /// Requests that the directory be accepted as it is.
    pub fn ask_adoption(&self) -> Result<()> {
        self.put("adopt", b"")
    }

    pub fn adoption(&self) -> bool {
        self.file("adopt").exists()
    }

    pub fn answered(&self, what: &str) {
        let _ = std::fs::remove_file(self.file(what));
    }

    /// Removes the stored state: equal files are then adopted, and both versions of different ones
    /// are kept.
    pub fn forget_state(&self) -> Result<()> {
        match std::fs::remove_file(&self.state) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(format!("remove {}", self.state.display()), &e))
            }
            _ => Ok(()),
        }
    }

    /// Removes the status and the requests of a state that has another name now.
    pub fn forget(&self) {
        ["json", "held", "approve", "adopt"]
            .into_iter()
            .for_each(|ending| self.answered(ending));
    }

    fn file(&self, ending: &str) -> PathBuf {
        self.state.with_extension(ending)
    }

    /// Writes a file atomically but without a sync: it is rewritten after a power loss.
    fn put(&self, ending: &str, bytes: &[u8]) -> Result<()> {
        let path = self.file(ending);
        let temporary = disk::temporary(&path);
        disk::create_dir(disk::parent(&path))?;
        let written = disk::write_temporary(&temporary, bytes, 0o600)
            .and_then(|_| disk::rename(&temporary, &path));
        written.map_err(|e| Error::io(format!("write {}", path.display()), &e))
    }

    fn tokens(&self, ending: &str) -> Vec<DeleteToken> {
        let bytes = disk::read_at_most(&self.file(ending), MAX_TOKENS_BYTES).unwrap_or_default();
        let read = |line: &[u8]| serde_json::from_slice::<(String, u64, u64)>(line).ok();
        bytes
            .split(|b| *b == b'\n')
            .filter_map(read)
            .map(|(path, base, remote)| DeleteToken { path, base, remote })
            .collect()
    }
}

fn lines(tokens: &[DeleteToken]) -> Vec<u8> {
    let line = |t: &DeleteToken| {
        serde_json::to_string(&(&t.path, t.base, t.remote)).expect("plain data is JSON") + "\n"
    };
    tokens.iter().map(line).collect::<String>().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_older_clients_are_read() {
        let old = r#"{"dir":"/x","server":"","remote":"","mode":"two-way","condition":"in-step","problems":[],
            "files":1,"due":2,"held_deletes":0,"refused":3,"cannot":[{"path":"a","why":"b"}],
            "conflict_copies":0,"special":{"count":0},"names":{"count":0},"unknown":{"count":0},
            "watched":1,"unwatched":0,"in_step_since":"then","at":"now"}"#;
        let read: DirectoryStatus = serde_json::from_str(old).unwrap();
        let new = serde_json::to_value(&read).unwrap();
        assert_eq!(
            (&new["condition"], &new["pending"], &new["in_sync_since"]),
            (&"in-sync".into(), &2.into(), &"then".into())
        );
        assert_eq!(
            (&new["unsyncable_count"], &new["unsyncable"][0]["path"]),
            (&3.into(), &"a".into())
        );
        let working: DirectoryCondition = serde_json::from_str("\"working\"").unwrap();
        assert_eq!(working, DirectoryCondition::Syncing);
    }

    #[test]
    fn a_request_is_handled_once() {
        let dir = tempfile::tempdir().unwrap();
        let files = StatusFiles::beside(dir.path().join("state/watch/key.redb"));
        assert_eq!(
            (
                files.read(),
                files.held(),
                files.approval(),
                files.adoption()
            ),
            (None, vec![], None, false)
        );
        let token = |path: &str| DeleteToken {
            path: path.into(),
            base: 1,
            remote: 2,
        };
        files.write_held(&[token("a\nb"), token("\"é")]).unwrap();
        files.ask_approval(&files.held()).unwrap();
        assert_eq!(files.approval(), Some(vec![token("a\nb"), token("\"é")]));
        files.answered("approve");
        assert_eq!(files.approval(), None);
        files.ask_adoption().unwrap();
        assert!(files.adoption());
        let status = DirectoryStatus {
            dir: "/x".into(),
            pending: 7,
            ..DirectoryStatus::default()
        };
        files.write(&status).unwrap();
        assert_eq!(
            (files.read(), StatusFiles::all(dir.path()).len()),
            (Some(status), 1)
        );
    }
}
