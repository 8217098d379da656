//! The rights of a key: the files that it may read and write, the hosts that it may send to, and whether it administers the hub.
//!
//! Pure. `routes` has the right that each route needs, `auth` identifies the key of a request. A file that a key may not read
//! looks to its holder as if it did not exist.

use std::collections::BTreeSet;

use crate::relpath;
use crate::wire::files::{FileEvent, Name, Record};
use crate::wire::rights::RightsRow;
use crate::wire::scope::{is_below, outermost};
use crate::wire::{self, Message};

/// Directories, or hosts, that one key names at most, so that its row stays short.
const MAX_NAMES: usize = 32;

/// The right that a route needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// None: the answer contains only what the caller may see.
    Any,
    ReadFiles,
    WriteFiles,
    Send,
    Receive,
    Admin,
    /// Of the hubs of one bucket: no key has it.
    Hub,
}

impl Right {
    /// The name in answers, for programs.
    pub fn name(self) -> &'static str {
        match self {
            Right::Any => "any",
            Right::ReadFiles => "read",
            Right::WriteFiles => "write",
            Right::Send => "send",
            Right::Receive => "receive",
            Right::Admin => "admin",
            Right::Hub => "hub",
        }
    }
}

/// The files that a key may reach.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum FileScope {
    #[default]
    All,
    /// Files below these directories, none of which is below another.
    Below(Vec<String>),
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FileAccess {
    #[default]
    ReadWrite,
    ReadOnly,
}

/// The hosts that a key may send to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SendScope {
    /// All hosts, and broadcasts.
    #[default]
    All,
    Hosts(BTreeSet<String>),
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InboxRight {
    #[default]
    Open,
    /// It cannot pull messages, and none are stored for it.
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Administration {
    #[default]
    No,
    Yes,
}

/// The rights of a key. The default is every right except administration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rights {
    pub files: FileScope,
    pub access: FileAccess,
    pub send: SendScope,
    pub inbox: InboxRight,
    pub administration: Administration,
}

/// Files below these directories; `/` means all files, an empty list none.
pub fn scope(dirs: &[String]) -> Result<FileScope, String> {
    let mut paths = BTreeSet::new();
    for dir in dirs {
        let path = dir.strip_prefix('/').unwrap_or(dir);
        let path = path.strip_suffix('/').unwrap_or(path);
        if path.is_empty() && !dir.is_empty() {
            return Ok(FileScope::All);
        }
        relpath::check(path).map_err(|why| format!("a directory of a key: {why}"))?;
        paths.insert(path.to_string());
    }
    let kept = outermost(&paths);
    match kept.len() {
        0 => Ok(FileScope::None),
        1..=MAX_NAMES => Ok(FileScope::Below(kept)),
        n => Err(format!(
            "a key names at most {MAX_NAMES} directories, not {n}"
        )),
    }
}

/// These hosts; an empty list: nothing may be sent.
pub fn targets(hosts: &[String]) -> Result<SendScope, String> {
    let hosts: BTreeSet<String> = hosts
        .iter()
        .map(|host| wire::check_host(host))
        .collect::<Result<_, _>>()?;
    match hosts.len() {
        0 => Ok(SendScope::None),
        1..=MAX_NAMES => Ok(SendScope::Hosts(hosts)),
        n => Err(format!("a key names at most {MAX_NAMES} hosts, not {n}")),
    }
}

impl Rights {
    /// Parses the rights of a row; the error is for its author.
    pub fn read(row: RightsRow) -> Result<Rights, String> {
        Ok(Rights {
            files: row.files.map_or(Ok(FileScope::All), |dirs| scope(&dirs))?,
            access: if row.read_only {
                FileAccess::ReadOnly
            } else {
                FileAccess::ReadWrite
            },
            send: row
                .send
                .map_or(Ok(SendScope::All), |hosts| targets(&hosts))?,
            inbox: if row.no_messages {
                InboxRight::Closed
            } else {
                InboxRight::Open
            },
            administration: if row.admin {
                Administration::Yes
            } else {
                Administration::No
            },
        })
    }

    pub fn row(&self) -> RightsRow {
        RightsRow {
            files: match &self.files {
                FileScope::All => None,
                FileScope::Below(dirs) => Some(dirs.clone()),
                FileScope::None => Some(Vec::new()),
            },
            read_only: self.access == FileAccess::ReadOnly,
            send: match &self.send {
                SendScope::All => None,
                SendScope::Hosts(hosts) => Some(hosts.iter().cloned().collect()),
                SendScope::None => Some(Vec::new()),
            },
            no_messages: self.inbox == InboxRight::Closed,
            admin: self.administration == Administration::Yes,
        }
    }

    /// Checks that a route with this right may be used; the error names the right that the key of `holder` lacks.
    pub fn check(&self, right: Right, holder: &str) -> Result<(), String> {
        let lacks = |what: &str, flags: &str| {
            Err(format!(
                "the key of \"{holder}\" may not {what}: an administrator of the hub can allow it with \"mesync key set {holder} {flags}\""
            ))
        };
        let files = self.files != FileScope::None;
        match right {
            Right::Any => Ok(()),
            Right::ReadFiles | Right::WriteFiles if !files => {
                lacks("read or change files", "--files DIR")
            }
            Right::WriteFiles if self.access == FileAccess::ReadOnly => {
                lacks("change files", "--read-write")
            }
            Right::Send if self.send == SendScope::None => {
                lacks("send messages", "--send HOST,...")
            }
            Right::Receive if self.inbox == InboxRight::Closed => {
                lacks("receive messages", "--messages")
            }
            Right::Admin if self.administration == Administration::No => {
                lacks("administer the hub", "--admin")
            }
            Right::Hub => Err("only another hub of the bucket can do this".into()),
            Right::ReadFiles | Right::WriteFiles | Right::Send | Right::Receive | Right::Admin => {
                Ok(())
            }
        }
    }

    /// Whether every file may be read.
    pub fn reads_all(&self) -> bool {
        self.files == FileScope::All
    }

    /// Whether files directly in the directory `path` may be read.
    pub fn reads(&self, path: &str) -> bool {
        match &self.files {
            FileScope::All => true,
            FileScope::Below(dirs) => dirs.iter().any(|dir| is_below(dir, path)),
            FileScope::None => false,
        }
    }

    /// The only directories that may be read; `None`: all.
    pub fn directories(&self) -> Option<Vec<String>> {
        match &self.files {
            FileScope::All => None,
            FileScope::Below(dirs) => Some(dirs.clone()),
            FileScope::None => Some(Vec::new()),
        }
    }

    /// The record without names that the holder may not read.
    pub fn shown(&self, mut record: Record) -> Option<Record> {
        record.renamed_to = record.renamed_to.filter(|name| self.reads(&name.path));
        self.reads(&record.path).then_some(record)
    }

    /// The event without names that the holder may not read.
    pub fn shown_event(&self, event: FileEvent) -> Option<FileEvent> {
        let payload = self.shown(event.payload)?;
        Some(FileEvent { payload, ..event })
    }

    /// Checks that a file of this name may be written; [`Right::WriteFiles`] was checked before.
    pub fn check_name(&self, name: &Name, holder: &str) -> Result<(), String> {
        if self.reads(&name.path) {
            return Ok(());
        }
        let dirs = self.directories().unwrap_or_default().join("\", \"");
        Err(format!(
            "the key of \"{holder}\" may read and change files below \"{dirs}\" only, not \"{}\": an administrator of the hub can change that with \"mesync key set {holder} --files DIR\"",
            wire::brief(&name.full())
        ))
    }

    /// Checks that this message may be sent. A broadcast needs the right to send to all hosts.
    pub fn check_message(&self, message: &Message, holder: &str) -> Result<(), String> {
        let hosts = match &self.send {
            SendScope::All => return Ok(()),
            SendScope::Hosts(hosts) => hosts,
            SendScope::None => return self.check(Right::Send, holder),
        };
        let list = hosts.iter().cloned().collect::<Vec<_>>().join(", ");
        match &message.target {
            Some(host) if hosts.contains(host) => Ok(()),
            Some(host) => Err(format!(
                "the key of \"{holder}\" may send to {list} only, not to \"{host}\""
            )),
            None => Err(format!(
                "the key of \"{holder}\" may send to {list} only: name a target, a broadcast is for all hosts"
            )),
        }
    }

    /// Texts for `mesync key list`: files, sent messages, received messages, administration.
    pub fn words(&self) -> [String; 4] {
        let files = match (&self.files, self.access) {
            (FileScope::None, _) => "none".into(),
            (scope, access) => {
                let dirs = match scope {
                    FileScope::Below(dirs) => dirs
                        .iter()
                        .map(|dir| format!("{dir}/"))
                        .collect::<Vec<_>>()
                        .join(" "),
                    _ => "all".into(),
                };
                match access {
                    FileAccess::ReadOnly => format!("{dirs} (read-only)"),
                    FileAccess::ReadWrite => dirs,
                }
            }
        };
        let send = match &self.send {
            SendScope::All => "all".into(),
            SendScope::Hosts(hosts) => hosts.iter().cloned().collect::<Vec<_>>().join(","),
            SendScope::None => "none".into(),
        };
        let yes = |is: bool| if is { "yes" } else { "no" }.to_string();
        [
            files,
            send,
            yes(self.inbox == InboxRight::Open),
            yes(self.administration == Administration::Yes),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn below(dirs: &[&str]) -> Rights {
        let dirs: Vec<String> = dirs.iter().map(|dir| dir.to_string()).collect();
        Rights {
            files: scope(&dirs).unwrap(),
            ..Rights::default()
        }
    }

    #[test]
    fn a_key_reads_what_is_below_its_directories_and_nothing_beside_them() {
        let check = |dirs: &[&str], path: &str, reads: bool| {
            assert_eq!(below(dirs).reads(path), reads, "{dirs:?} {path:?}")
        };
        for (path, reads) in [
            ("a", true),
            ("a/b/c", true),
            ("", false),
            ("ab", false),
            ("a-b", false),
            ("A", false),
            ("b/a", false),
        ] {
            check(&["a"], path, reads);
            check(&["/a/"], path, reads);
            check(&["a", "a/b"], path, reads);
            check(&[], path, false);
            check(&["/"], path, true);
        }
        for wrong in ["", "a/../b", "a//b", ".", "..", "a/./b", "a\0"] {
            assert!(scope(&[wrong.to_string()]).is_err(), "{wrong:?}");
        }
        let tombstone = Record {
            path: "a".into(),
            renamed_to: Some(Name {
                path: "b".into(),
                name: "secret".into(),
            }),
            ..Record::default()
        };
        assert_eq!(
            below(&["a"]).shown(tombstone.clone()).unwrap().renamed_to,
            None
        );
        assert_eq!(below(&["b"]).shown(tombstone), None);
    }

    #[test]
    fn each_right_is_given_or_named_in_the_refusal() {
        let all = Rights::default();
        let cases = [
            Rights {
                files: FileScope::None,
                ..all.clone()
            },
            Rights {
                access: FileAccess::ReadOnly,
                ..all.clone()
            },
            Rights {
                send: SendScope::None,
                ..all.clone()
            },
            Rights {
                inbox: InboxRight::Closed,
                ..all.clone()
            },
        ];
        let wants = |rights: &Rights| {
            [
                Right::Any,
                Right::ReadFiles,
                Right::WriteFiles,
                Right::Send,
                Right::Receive,
                Right::Admin,
            ]
            .map(|right| rights.check(right, "web-1").is_ok())
        };
        assert_eq!(wants(&all), [true, true, true, true, true, false]);
        let admin = Rights {
            administration: Administration::Yes,
            ..all
        };
        assert_eq!(wants(&admin), [true; 6]);
        assert_eq!(wants(&cases[0]), [true, false, false, true, true, false]);
        assert_eq!(wants(&cases[1]), [true, true, false, true, true, false]);
        assert_eq!(wants(&cases[2]), [true, true, true, false, true, false]);
        assert_eq!(wants(&cases[3]), [true, true, true, true, false, false]);
        let said = cases[1].check(Right::WriteFiles, "web-1").unwrap_err();
        assert!(said.contains("mesync key set web-1 --read-write"), "{said}");
        for rights in cases.iter().chain([&admin]) {
            assert_eq!(Rights::read(rights.row()).as_ref(), Ok(rights));
        }
    }

    #[test]
    fn a_message_needs_its_target_among_those_of_the_key() {
        let rights = Rights {
            send: targets(&["DB".into(), "web-2".into()]).unwrap(),
            ..Rights::default()
        };
        let check = |text: &str, wants: &str| {
            let message = Message::parse(text.as_bytes()).unwrap();
            let got = rights.check_message(&message, "web-1");
            assert!(
                got.clone()
                    .map_or_else(|why| why, |()| "sent".into())
                    .contains(wants),
                "{got:?}"
            );
        };
        check(r#"{"type":"x","target":"Db"}"#, "sent");
        check(
            r#"{"type":"x","target":"db-2"}"#,
            "db, web-2 only, not to \"db-2\"",
        );
        check(r#"{"type":"x"}"#, "a broadcast is for all hosts");
    }
}
