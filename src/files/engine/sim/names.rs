//! A simulated disk that folds names, as exFAT does: all spellings reach one inode, and the listing
//! has one of them.
//!
//! Also renames by users that change only case, and the check for entries that such a disk cannot
//! have.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::files::engine::traits::{NameCollision, RenameOutcome};
use crate::files::engine::{WorkOutcome, WorkReport};
use crate::files::plan::{Entry, is_below, parent};

use super::world::{Client, World};

/// Names that users of [`super::Config::Folding`] write and move to.
pub const WRITTEN: [&str; 8] = ["a", "A", "b", "d/x", "D/x", "d/X", "d/y", "q?"];
pub const MOVED_TO: [&str; 7] = ["a", "A", "B", "e", "d/x", "D/z", "d/Z"];

fn fold(name: &str) -> String {
    name.to_lowercase()
}

/// The prefixes of a path, from the first directory to the path itself.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/')
        .map(|(at, _)| at)
        .chain([path.len()])
        .map(|at| &path[..at])
}

impl Client {
    /// The path that the disk resolves to: each existing component as it is listed.
    pub fn real<'a>(&self, path: &'a str) -> Cow<'a, str> {
        if !self.folds {
            return path.into();
        }
        let mut real = String::new();
        for name in path.split('/') {
            let dir = if real.is_empty() {
                String::new()
            } else {
                format!("{real}/")
            };
            let mut entries = self
                .fs
                .keys()
                .filter_map(|p| p.strip_prefix(&dir))
                .filter(|n| !n.contains('/'));
            let listed = entries.find(|n| fold(n) == fold(name));
            real = format!("{dir}{}", listed.unwrap_or(name));
        }
        real.into()
    }

    /// The path as mesync's tree sees it: a listed name, except for its own names.
    pub fn at<'a>(&self, path: &'a str) -> Cow<'a, str> {
        if !Client::visible(path) {
            self.real(path)
        } else {
            path.into()
        }
    }

    /// Whether the disk cannot have such names.
    pub fn refuses(&self, path: &str) -> bool {
        self.folds
            && path
                .split('/')
                .any(|name| name.contains(['?', ':', '*', '|']) || name.ends_with('.'))
    }

    /// The first component of a path that has another spelling here.
    pub fn name_collision(&self, path: &str) -> Option<NameCollision> {
        let name_collision = |wanted: &str| {
            Some(NameCollision {
                wanted: wanted.into(),
                there: Some(self.real(wanted).into_owned()),
            })
        };
        prefixes(path)
            .find(|p| self.real(p) != *p && self.fs.contains_key(self.real(p).as_ref()))
            .and_then(name_collision)
    }

    pub fn respell(&mut self, there: &str, wanted: &str) -> RenameOutcome {
        if parent(there) != parent(wanted)
            || !self.fs.contains_key(there)
            || self.real(wanted) != there
        {
            return RenameOutcome::Changed;
        }
        self.rename_all(there, wanted);
        RenameOutcome::Done
    }

    /// Renames a file, or a directory with its content.
    pub fn rename_all(&mut self, from: &str, to: &str) {
        let names: Vec<String> = self
            .fs
            .keys()
            .filter(|p| *p == from || is_below(p, from))
            .cloned()
            .collect();
        for name in names {
            let node = self.fs.remove(&name).expect("it was listed");
            self.fs.insert(format!("{to}{}", &name[from.len()..]), node);
        }
    }

    /// Records reports like the stats from which `status` names them.
    pub fn reported(&mut self, report: &WorkReport) {
        match report.outcome {
            WorkOutcome::Refused(_) => drop(self.refused.insert(report.path.clone())),
            WorkOutcome::Settled => drop(self.refused.remove(&report.path)),
            _ => {}
        }
    }

    /// Entries of the hub that this disk cannot have beside the others.
    pub fn cannot(&self, live: &BTreeMap<&String, Entry>) -> BTreeSet<String> {
        let no = |p: &&&String| {
            !self.fs.contains_key(**p) && (self.refuses(p) || self.name_collision(p).is_some())
        };
        live.keys().filter(no).map(|p| p.to_string()).collect()
    }
}

impl World {
    /// The path that a user means: includes its conflict copies and, where a disk folds names, its
    /// other spellings. A file of a directory that is gone, or a file by now, is beside it. Where users
    /// move directories, both names of a directory are one: with it moves what has a temporary name,
    /// and gets a name for the user there.
    pub fn meant(&self, path: &str) -> String {
        let stem = super::stem(path);
        let meant = match self.config {
            super::Config::Folding => fold(&stem),
            super::Config::Moving if is_below(&stem, "f") => format!("d{}", &stem[1..]),
            _ => stem,
        };
        if matches!(meant.as_str(), "x" | "y" | "z") {
            format!("d/{meant}")
        } else {
            meant
        }
    }

    /// Changes the case of the last component of a file or directory.
    pub fn user_respells(&mut self, i: usize) {
        let names: Vec<String> = self.clients[i].tree().map(|(p, _)| p.clone()).collect();
        let Some(from) = self.pick(&names) else {
            return;
        };
        let (dir, name) = from
            .rsplit_once('/')
            .map_or(("", from.as_str()), |(dir, name)| {
                (&from[..=dir.len()], name)
            });
        let other = if name == fold(name) {
            name.to_uppercase()
        } else {
            fold(name)
        };
        let to = format!("{dir}{other}");
        let ours = self.clients[i]
            .fs
            .keys()
            .any(|p| is_below(p, &from) && !Client::visible(p));
        if to == from || super::copy_of(&from) || ours || self.clients[i].fs.contains_key(&to) {
            return;
        }
        self.say(|| format!("c{i} mv {from} {to}"));
        let inside: Vec<String> = names
            .into_iter()
            .filter(|p| *p == from || is_below(p, &from))
            .collect();
        for old in inside {
            let new = format!("{to}{}", &old[from.len()..]);
            if self.clients[i].fs[&old].is_dir() {
                let node = self.clients[i].fs.remove(&old).expect("it was listed");
                self.clients[i].fs.insert(new, node);
            } else {
                self.renamed(i, &old, &new);
            }
        }
    }
}
