//! Deletes that a person has approved for every machine, and deletes that a machine asks about.
//!
//! Pure. An approval is of one file at one revision: of the file as it is before the delete, which all machines know by the same
//! number, whether they delete it or receive the delete.

use serde::{Deserialize, Serialize};

/// Bytes of JSON of one list at most, so that the hub reads it at once.
pub const MAX_LIST_BYTES: usize = 64 * 1024;
/// Bytes of a list without its deletes, with some room for spaces.
const EMPTY_LIST_BYTES: usize = 64;

/// The delete of this revision of a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileDelete {
    /// `docs/a.txt`.
    pub name: String,
    pub rev: u64,
}

/// The body of `POST /api/files/approvals` and of `POST /api/files/approved`, and the answers to both.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDeletes {
    pub deletes: Vec<FileDelete>,
}

/// Parts of a list of deletes, each of which fits into one request.
pub fn lists(deletes: &[FileDelete]) -> Vec<&[FileDelete]> {
    let (mut lists, mut start, mut bytes) = (Vec::new(), 0, EMPTY_LIST_BYTES);
    for (at, delete) in deletes.iter().enumerate() {
        // each byte of a name may be escaped
        let size = 2 * delete.name.len() + 64;
        if bytes + size > MAX_LIST_BYTES && at > start {
            lists.push(&deletes[start..at]);
            (start, bytes) = (at, EMPTY_LIST_BYTES);
        }
        bytes += size;
    }
    if start < deletes.len() {
        lists.push(&deletes[start..]);
    }
    lists
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_all_deletes_once_and_fit_into_requests() {
        let deletes: Vec<FileDelete> = (0..500)
            .map(|rev| FileDelete {
                name: "\"".repeat((rev as usize * 37) % 1024 + 1),
                rev,
            })
            .collect();
        let lists = lists(&deletes);
        assert!(lists.len() > 2);
        assert_eq!(lists.concat(), deletes);
        for list in lists {
            let body = FileDeletes {
                deletes: list.to_vec(),
            };
            assert!(serde_json::to_vec(&body).unwrap().len() <= MAX_LIST_BYTES);
        }
        assert!(super::lists(&[]).is_empty());
    }
}
