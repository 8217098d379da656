//! The table of commands and flags, from which parser, help, man pages and completions are made.
//!
//! It contains texts, not behaviour: other files parse and show its rows, and `commands` has their functions.

mod files;
mod join;
mod keys;
mod sync;

use crate::wire::Priority;

/// One command, or one form of a command of two words.
pub struct Command {
    /// `send`, or `key add`.
    pub name: &'static str,
    pub group: Group,
    pub arguments: &'static [Argument],
    pub flags: &'static [Flag],
    /// One line: lower case, no full stop.
    pub doc: &'static str,
    /// The further description: paragraphs, one line each, wrapped when they are shown.
    pub long: &'static [&'static str],
    /// Command lines, each with its purpose.
    pub examples: &'static [(&'static str, &'static str)],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    Files,
    Messages,
    Machine,
    Hub,
    Other,
}

impl Group {
    pub const ALL: [(Group, &'static str); 5] = [
        (Group::Messages, "Messages"),
        (Group::Files, "Files"),
        (Group::Machine, "This machine"),
        (Group::Hub, "The hub"),
        (Group::Other, "Other"),
    ];
}

pub struct Argument {
    pub name: &'static str,
    pub count: Count,
    pub values: Values,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    One,
    /// One or none.
    Optional,
    /// At least one.
    Some,
    Any,
}

/// The possible values of an argument or flag: lists are checked, and completed by the shells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    Text,
    Words(&'static [&'static str]),
    File,
    Directory,
    Command,
}

pub struct Flag {
    /// Without its dashes.
    pub long: &'static str,
    pub short: Option<char>,
    /// The name of its value, if it has one.
    pub value: Option<&'static str>,
    pub values: Values,
    /// The key of the setting that it sets.
    pub setting: Option<&'static str>,
    pub doc: &'static str,
}

const fn switch(long: &'static str, doc: &'static str) -> Flag {
    Flag {
        long,
        short: None,
        value: None,
        values: Values::Text,
        setting: None,
        doc,
    }
}

const fn short(short: char, long: &'static str, doc: &'static str) -> Flag {
    Flag {
        long,
        short: Some(short),
        value: None,
        values: Values::Text,
        setting: None,
        doc,
    }
}

const fn valued(
    long: &'static str,
    value: &'static str,
    values: Values,
    doc: &'static str,
) -> Flag {
    Flag {
        long,
        short: None,
        value: Some(value),
        values,
        setting: None,
        doc,
    }
}

const fn short_valued(
    short: char,
    long: &'static str,
    value: &'static str,
    values: Values,
    doc: &'static str,
) -> Flag {
    Flag {
        long,
        short: Some(short),
        value: Some(value),
        values,
        setting: None,
        doc,
    }
}

const fn setting(
    long: &'static str,
    value: &'static str,
    values: Values,
    key: &'static str,
    doc: &'static str,
) -> Flag {
    Flag {
        long,
        short: None,
        value: Some(value),
        values,
        setting: Some(key),
        doc,
    }
}

const fn one(name: &'static str, values: Values) -> Argument {
    Argument {
        name,
        count: Count::One,
        values,
    }
}

const fn optional(name: &'static str, values: Values) -> Argument {
    Argument {
        name,
        count: Count::Optional,
        values,
    }
}

const fn some(name: &'static str, values: Values) -> Argument {
    Argument {
        name,
        count: Count::Some,
        values,
    }
}

const fn any(name: &'static str, values: Values) -> Argument {
    Argument {
        name,
        count: Count::Any,
        values,
    }
}

const BYTES: Flag = switch("bytes", "print exact numbers of bytes");
const DATA: Flag = setting(
    "data",
    "DIR",
    Values::Directory,
    "data_dir",
    "the hub's data (default: hub in the base directory)",
);
const QUEUES: Values = Values::Words(&["outbox", "inbox", "sent", "failed", "hooks"]);
// includes the outbox, so that the command itself can explain its refusal
const FLUSHABLE: Values = Values::Words(&["sent", "failed", "inbox", "hooks", "outbox"]);
pub const SHELLS: &[&str] = &["bash", "zsh", "fish"];

/// Flags that every command takes.
pub static GLOBAL: &[Flag] = &[
    switch("json", "print data as one JSON object, or one a line"),
    short('q', "quiet", "log errors only"),
    short('v', "verbose", "log more; twice for everything"),
    short('h', "help", "show the help of the command"),
    short('V', "version", "show the version"),
];

/// All commands, in the order of help.
pub static COMMANDS: &[Command] = &[
    Command {
        name: "send",
        group: Group::Messages,
        arguments: &[Argument {
            name: "TYPE",
            count: Count::Optional,
            values: Values::Text,
        }],
        flags: &[
            switch(
                "batch",
                "read messages from standard input, one JSON object a line",
            ),
            valued(
                "payload",
                "JSON",
                Values::Text,
                "the payload (default: null)",
            ),
            valued(
                "payload-file",
                "FILE",
                Values::File,
                "read the payload from a file, or from standard input if it is \"-\"",
            ),
            valued(
                "target",
                "HOST",
                Values::Text,
                "for this machine only (default: all others)",
            ),
            valued(
                "priority",
                "PRIORITY",
                Values::Words(&Priority::NAMES),
                "high, normal or low (default: normal)",
            ),
            valued(
                "ttl",
                "SECONDS",
                Values::Text,
                "the hub drops it if it is not delivered by then (1 to 604800)",
            ),
        ],
        doc: "write a message to the outbox and print its id",
        long: &[
            "Needs neither hub nor daemon: the message is on the disk when the command returns, and is sent when both are running. The payload is any JSON and arrives unchanged. A message has at most 256 KiB: send a reference to larger data.",
            "TYPE is 1 to 64 letters, digits, dots, dashes and underscores. The receiving machine runs hooks/TYPE, if it exists.",
            "With --batch and without TYPE, each line of standard input is one message, as a file in the outbox is: {\"type\": \"x\", \"target\": \"web-1\", \"payload\": 1}. Only \"type\" is required. Lines that arrive together (up to 1000) share their syncs, so many messages cost little more than one; the ids are printed in the same order. The first line that is not a message ends the command; the messages before it are in the outbox. A line with an \"id\" can be sent again without being delivered twice.",
            "In a hook, the message carries the number of hooks that led to it, and after three in a row it is refused: hooks that answer each other would loop.",
        ],
        examples: &[
            (
                "mesync send deploy.done --payload '{\"rev\": 42}'",
                "tell all other machines",
            ),
            (
                "uname -a | jq -R . | mesync send uname --payload-file - --target web-1",
                "one machine, payload from a pipe",
            ),
            (
                "jq -c '.[] | {type: \"row\", payload: .}' rows.json | mesync send --batch",
                "a message for each row",
            ),
        ],
    },
    Command {
        name: "list",
        group: Group::Messages,
        arguments: &[one("QUEUE", QUEUES)],
        flags: &[BYTES],
        doc: "list outbox, inbox, sent, failed or hooks",
        long: &[
            "The outbox is listed in the order of sending, the others by time. Files that are not messages are listed with the reason. In the inbox, \"hook failed\" marks messages whose hook has failed: see retry --hooks.",
            "\"list hooks\" shows pending and failed hooks: why one failed, and the remedy. Their messages may have left the inbox.",
        ],
        examples: &[
            ("mesync list failed", "what was refused, and why"),
            ("mesync list hooks", "which hooks failed, and why"),
            (
                "mesync list inbox --json",
                "for a script: one object a line",
            ),
        ],
    },
    Command {
        name: "show",
        group: Group::Messages,
        arguments: &[one("ID", Values::Text)],
        flags: &[BYTES],
        doc: "show a whole message and where it is",
        long: &[
            "ID is the id of a message, at least four characters of its beginning or its end, or the name of its file.",
        ],
        examples: &[("mesync show 7c1e", "the message whose id begins or ends so")],
    },
    Command {
        name: "retry",
        group: Group::Messages,
        arguments: &[any("ID", Values::Text)],
        flags: &[switch("hooks", "run failed hooks again, not messages")],
        doc: "send failed messages again, or run failed hooks again",
        long: &[
            "Without ID: all of them. A message keeps its id and its content, and gets a new time limit. A file in failed/ that is not a message can be corrected there and retried.",
            "ID is the id of a message, at least four characters of its beginning or its end, or the name of its file.",
        ],
        examples: &[
            ("mesync retry", "everything in failed/"),
            ("mesync retry --hooks 7c1e", "the hook for one message"),
        ],
    },
    Command {
        name: "flush",
        group: Group::Messages,
        arguments: &[one("QUEUE", FLUSHABLE), any("ID", Values::Text)],
        flags: &[],
        doc: "remove all from sent, failed or inbox, or the failed hooks",
        long: &[
            "Messages removed from the inbox do not arrive again, and pending hooks still run. The outbox is never flushed: its messages would be lost.",
            "\"flush hooks\" removes the hooks that failed, all of them or those of the given messages. Their messages stay where they are.",
        ],
        examples: &[
            ("mesync flush sent", "forget what was sent"),
            (
                "mesync flush hooks 7c1e",
                "give up the failed hook for one message",
            ),
        ],
    },
    files::LOGIN,
    files::UPLOAD,
    files::DOWNLOAD,
    files::LS,
    files::INFO,
    files::RM,
    files::VERSIONS,
    files::RESTORE,
    files::EVENTS,
    sync::SYNC,
    sync::DAEMON,
    sync::APPROVE,
    sync::ADOPT,
    sync::CONFLICTS,
    sync::FORGET,
    Command {
        name: "start",
        group: Group::Machine,
        arguments: &[optional("DIR", Values::Directory)],
        flags: &[
            sync::WATCH,
            sync::YES,
            switch(
                "once",
                "send, receive, sync, run hooks once, and exit: for cron",
            ),
        ],
        doc: "run this machine's client: messages, hooks, directories",
        long: &[
            "Runs in the foreground until SIGTERM or SIGINT. SIGHUP reloads the settings. One client runs for each base directory.",
            "It also syncs the directories under [[watch]] in config.toml, and DIR: see daemon.",
        ],
        examples: &[
            ("mesync start", "under systemd, procd or in a terminal"),
            ("mesync start ~/share", "and sync a directory"),
            ("mesync start --once", "from cron"),
        ],
    },
    join::JOIN,
    Command {
        name: "status",
        group: Group::Machine,
        arguments: &[],
        flags: &[
            switch(
                "watch",
                "show it again every two seconds, until interrupted",
            ),
            BYTES,
        ],
        doc: "say whether this machine is healthy, or why not",
        long: &[
            "The last line is \"healthy\" (exit status 0), or \"degraded\" with the reasons (exit status 1). A directory that is not in sync, held deletes, files that cannot be synced, and directories that are not watched are reasons too. Conflict copies and skipped files (sockets, devices, names that are not UTF-8 or too long) are shown, and are no reason.",
        ],
        examples: &[
            ("mesync status || echo degraded", "in a script"),
            ("mesync status --watch", "see it change"),
        ],
    },
    Command {
        name: "serve",
        group: Group::Hub,
        arguments: &[],
        flags: &[
            setting(
                "listen",
                "ADDR:PORT",
                Values::Text,
                "listen",
                "address and port (default: 0.0.0.0:8080)",
            ),
            DATA,
            setting(
                "workers",
                "N",
                Values::Text,
                "workers",
                "threads that answer requests (default: 8)",
            ),
            switch("allow-anonymous", "accept every machine, without a key"),
            switch(
                "start",
                "also run this machine's client in the same process",
            ),
            sync::WATCH,
            sync::YES,
        ],
        doc: "run the hub",
        long: &[
            "As long as it has let no machine in, only its own machine is served: see accept, invite and key add. Its port speaks TLS, which machines that have joined use, and plain HTTP beside it: [hub] plain says for which clients.",
        ],
        examples: &[
            ("mesync serve --start", "the hub and this machine's client"),
            ("mesync serve --start -w ~/share", "and sync a directory"),
            ("mesync serve --listen 10.0.0.1:9000", "one address only"),
        ],
    },
    join::ACCEPT,
    join::INVITE,
    join::RENEW_CERTIFICATE,
    Command {
        name: "hub backup",
        group: Group::Hub,
        arguments: &[one("DIR", Values::Directory)],
        flags: &[DATA],
        doc: "copy the hub's data into a new directory",
        long: &[
            "Run it on the hub's machine, as the hub's user. A running hub makes the copy itself and serves requests meanwhile. DIR must be new or empty. On the same disk the contents of files are hard links, so keep a backup against the loss of the disk on another one.",
            "To restore it, stop the hub and put DIR in the place of its data directory. Every machine then compares all its files with the hub. Changes that were in sync after the backup are sent again, deletes included; later changes of other machines are kept beside them. A machine that does not know what it has in common with the hub deletes nothing.",
        ],
        examples: &[("mesync hub backup /mnt/usb/hub-monday", "onto another disk")],
    },
    Command {
        name: "hub check",
        group: Group::Hub,
        arguments: &[],
        flags: &[
            DATA,
            switch(
                "repair",
                "have the hub ask its clients for contents that are lost",
            ),
        ],
        doc: "check that the hub's data are complete and undamaged",
        long: &[
            "Files and versions whose content is lost are named. With --repair the hub asks for them after its next start, and a machine that has one in a synced directory sends it; contents that stay in the list are on no machine. Nothing is removed.",
            "Reads the contents of all files, so it can take long. The hub must be stopped; to check a running one, make a backup and check that. Exit status 65 if something is damaged. Data that are no longer needed are named too, and are no damage: the hub removes them.",
        ],
        examples: &[
            ("mesync hub check", "the hub of this machine"),
            ("mesync hub check --data /mnt/usb/hub-monday", "a backup"),
        ],
    },
    keys::ADD,
    keys::LIST,
    keys::SET,
    keys::ROTATE,
    keys::REMOVE,
    Command {
        name: "hosts",
        group: Group::Hub,
        arguments: &[],
        flags: &[],
        doc: "list the machines that the hub knows",
        long: &[
            "With the time when each was last seen, and the number of messages that wait for it.",
        ],
        examples: &[("mesync hosts", "which machines are behind")],
    },
    Command {
        name: "hosts rebind",
        group: Group::Hub,
        arguments: &[one("HOST", Values::Text)],
        flags: &[],
        doc: "let a replaced machine take over its old name",
        long: &[
            "The hub refuses a second machine under a name that it knows. If the first one no longer exists, this admits the new one, which continues where the old one stopped. It also clears the warning that a machine was copied or set back, until it happens again.",
        ],
        examples: &[("mesync hosts rebind web-1", "web-1 was reinstalled")],
    },
    Command {
        name: "completions",
        group: Group::Other,
        arguments: &[one("SHELL", Values::Words(SHELLS))],
        flags: &[],
        doc: "print the completions for bash, zsh or fish",
        long: &[],
        examples: &[("eval \"$(mesync completions bash)\"", "in ~/.bashrc")],
    },
    Command {
        name: "help",
        group: Group::Other,
        arguments: &[any("COMMAND", Values::Command)],
        flags: &[],
        doc: "list the commands, or show the help of one",
        long: &["\"mesync help settings\" lists all settings with their variables and defaults."],
        examples: &[("mesync help send", "all about send")],
    },
];

/// The rows whose names begin with these words: one for `send`, several for `key`.
pub fn rows(words: &str) -> Vec<&'static Command> {
    let longer = format!("{words} ");
    COMMANDS
        .iter()
        .filter(|c| c.name == words || c.name.starts_with(&longer))
        .collect()
}

/// The first words of all names, each once.
pub fn first_words() -> Vec<&'static str> {
    let mut words: Vec<_> = COMMANDS.iter().map(|c| c.first_word()).collect();
    words.dedup();
    words
}

impl Command {
    pub fn first_word(&self) -> &'static str {
        self.name.split(' ').next().unwrap_or(self.name)
    }

    /// `send TYPE [--payload JSON] …`, without the global flags.
    pub fn usage(&self) -> Vec<String> {
        let arguments = self.arguments.iter().map(|a| match a.count {
            Count::One => a.name.to_string(),
            Count::Optional => format!("[{}]", a.name),
            Count::Some => format!("{}…", a.name),
            Count::Any => format!("[{}…]", a.name),
        });
        let flags = self.flags.iter().map(|f| format!("[{}]", f.usage()));
        std::iter::once(format!("mesync {}", self.name))
            .chain(arguments)
            .chain(flags)
            .collect()
    }
}

impl Flag {
    /// `--payload JSON`, `-q, --quiet`.
    pub fn usage(&self) -> String {
        let short = self.short.map_or(String::new(), |c| format!("-{c}, "));
        let value = self.value.map_or(String::new(), |v| format!(" {v}"));
        format!("{short}--{}{value}", self.long)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SETTINGS;

    #[test]
    fn a_flag_has_the_same_letter_in_every_command() {
        let all: Vec<&Flag> = COMMANDS
            .iter()
            .flat_map(|c| c.flags)
            .chain(GLOBAL)
            .collect();
        for a in &all {
            assert!(!a.doc.is_empty() && !a.doc.ends_with('.'), "--{}", a.long);
            // two flags with one name but different kinds stay apart: the parser chooses when it knows the command
            let is_same = |b: &&Flag| a.long == b.long && a.value.is_some() == b.value.is_some();
            assert!(
                all.iter()
                    .filter(|b| is_same(b))
                    .all(|b| a.short == b.short),
                "--{}",
                a.long
            );
            assert!(
                a.setting
                    .is_none_or(|key| SETTINGS.iter().any(|s| s.key == key)),
                "--{} sets nothing",
                a.long
            );
        }
        for c in COMMANDS {
            assert!(
                c.flags
                    .iter()
                    .all(|f| GLOBAL.iter().all(|g| g.long != f.long)),
                "{} repeats a global flag",
                c.name
            );
        }
    }

    #[test]
    fn every_row_is_documented_with_an_example_of_itself() {
        for c in COMMANDS {
            assert!(
                !c.doc.is_empty() && !c.doc.ends_with('.') && c.doc.len() <= 60,
                "{}",
                c.name
            );
            assert!(
                !c.examples.is_empty()
                    && c.examples
                        .iter()
                        .all(|(e, _)| e.contains(&format!("mesync {}", c.name))),
                "{}",
                c.name
            );
            assert_eq!(
                rows(c.name).iter().filter(|r| r.name == c.name).count(),
                1,
                "{} twice",
                c.name
            );
        }
        assert_eq!(rows("key").len(), 5);
        assert_eq!(rows("ke").len(), 0);
    }
}
