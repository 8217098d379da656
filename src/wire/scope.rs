//! The part of the hub's files that a request is about: those below some directories, `path=` of a query.
//!
//! Pure. What a key may read is decided elsewhere; a scope only leaves out more.

use std::collections::BTreeSet;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::relpath;

/// Directories of one scope, at most.
const MAX_DIRS: usize = 64;
/// Bytes of the part of a query, at most: a head has 8 KiB of path and query.
const MAX_QUERY_BYTES: usize = 4096;

/// Files below some directories. The default is all files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Sorted, and none of them is below another; empty: all files.
    dirs: Vec<String>,
}

/// Whether `path` is the directory `dir` or one below it.
pub fn is_below(dir: &str, path: &str) -> bool {
    path.strip_prefix(dir)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Those of these directories that are below no other of them.
pub fn outermost(dirs: &BTreeSet<String>) -> Vec<String> {
    let is_inner = |path: &String| dirs.iter().any(|dir| dir != path && is_below(dir, path));
    dirs.iter()
        .filter(|path| !is_inner(path))
        .cloned()
        .collect()
}

/// A directory without the slashes at its ends; "" is the whole hub.
pub fn directory(text: &str) -> Result<&str, String> {
    let path = text.strip_prefix('/').unwrap_or(text);
    let path = path.strip_suffix('/').unwrap_or(path);
    if !path.is_empty() {
        relpath::check(path)?;
    }
    Ok(path)
}

impl Scope {
    /// Files below these directories; no directory, or an empty one: all files. The error is for the caller.
    pub fn below<'a>(dirs: impl IntoIterator<Item = &'a str>) -> Result<Scope, String> {
        let mut paths = BTreeSet::new();
        for dir in dirs {
            match directory(dir)? {
                "" => return Ok(Scope::default()),
                path => paths.insert(path.to_string()),
            };
        }
        match outermost(&paths) {
            dirs if dirs.len() <= MAX_DIRS => Ok(Scope { dirs }),
            dirs => Err(format!(
                "at most {MAX_DIRS} directories are allowed, not {}",
                dirs.len()
            )),
        }
    }

    pub fn is_all(&self) -> bool {
        self.dirs.is_empty()
    }

    /// Whether it has the files directly in the directory `path`.
    pub fn has(&self, path: &str) -> bool {
        self.is_all() || self.dirs.iter().any(|dir| is_below(dir, path))
    }

    /// `&path=docs&path=photos`, to be appended to a query; empty for all files, and for more directories than a query can
    /// name.
    pub fn query(&self) -> String {
        let encode = |dir: &String| format!("&path={}", utf8_percent_encode(dir, NON_ALPHANUMERIC));
        let query: String = self.dirs.iter().map(encode).collect();
        if query.len() > MAX_QUERY_BYTES {
            return String::new();
        }
        query
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_has_whole_directories_and_nothing_beside_them() {
        let scope = Scope::below(["/docs/", "docs/a", "b c/é"]).unwrap();
        assert_eq!(scope.query(), "&path=b%20c%2F%C3%A9&path=docs");
        for (path, is_in) in [
            ("docs", true),
            ("docs/a/b", true),
            ("docs-old", false),
            ("doc", false),
            ("", false),
            ("b c", false),
            ("b c/é", true),
        ] {
            assert_eq!(scope.has(path), is_in, "{path}");
        }
        for all in [&[][..], &[""], &["docs", "/"]] {
            let scope = Scope::below(all.iter().copied()).unwrap();
            assert!(
                scope.is_all() && scope.has("") && scope.has("x/y") && scope.query().is_empty()
            );
        }
    }

    #[test]
    fn what_is_no_directory_is_refused() {
        for (dir, why) in [
            ("a/../b", "leads elsewhere"),
            ("a//b", "empty component"),
            (".mesync", "keeps such names"),
            ("//a", "relative"),
        ] {
            let refused = Scope::below([dir]).unwrap_err();
            assert!(refused.contains(why), "{dir}: {refused}");
        }
        let many: Vec<String> = (0..=MAX_DIRS).map(|n| format!("d{n}")).collect();
        let refused = Scope::below(many.iter().map(String::as_str)).unwrap_err();
        assert!(refused.contains("not 65"), "{refused}");
        let long: Vec<String> = (0..40).map(|n| format!("{n:0150}")).collect();
        let scope = Scope::below(long.iter().map(String::as_str)).unwrap();
        assert!(!scope.is_all() && scope.query().is_empty());
    }
}
