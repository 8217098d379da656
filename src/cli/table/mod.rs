//! The table of commands and flags, from which parser, help, man pages and completions are made.
//!
//! It contains texts, not behaviour: other files parse and show its rows, and `commands` has their functions.

mod files;
mod hub;
mod join;
mod keys;
mod messages;
mod sync;

/// One command, or one form of a command of two words.
pub struct Command {
    /// `send`, or `key add`.
    pub name: &'static str,
    pub group: CommandGroup,
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
pub enum CommandGroup {
    Files,
    Directories,
    Messages,
    Machine,
    Hub,
    Other,
}

impl CommandGroup {
    pub const ALL: [(CommandGroup, &'static str); 6] = [
        (CommandGroup::Messages, "Messages"),
        (CommandGroup::Directories, "Synced directories"),
        (CommandGroup::Files, "Files on the hub"),
        (CommandGroup::Machine, "This machine"),
        (CommandGroup::Hub, "The hub"),
        (CommandGroup::Other, "Other"),
    ];
}

pub struct Argument {
    pub name: &'static str,
    pub count: ArgumentCount,
    pub values: ValueKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArgumentCount {
    One,
    /// One or none.
    Optional,
    /// At least one.
    Some,
    Any,
}

/// The possible values of an argument or flag: lists are checked, and completed by the shells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueKind {
    Text,
    Words(&'static [&'static str]),
    File,
    Directory,
    Command,
    /// Names of this kind, which `mesync words` prints.
    Names(&'static str),
}

/// The kinds of names that `mesync words` prints.
pub const NAME_KINDS: &[&str] = &["hosts", "keys", "messages", "failed", "files", "trash"];

pub struct Flag {
    /// Without its dashes.
    pub long: &'static str,
    pub short: Option<char>,
    /// The name of its value, if it has one.
    pub value: Option<&'static str>,
    pub values: ValueKind,
    /// The key of the setting that it sets.
    pub setting: Option<&'static str>,
    /// It may be given several times.
    pub repeatable: bool,
    pub doc: &'static str,
}

impl Flag {
    const fn repeatable(self) -> Flag {
        Flag {
            repeatable: true,
            ..self
        }
    }
}

const fn switch(long: &'static str, doc: &'static str) -> Flag {
    Flag {
        long,
        short: None,
        value: None,
        values: ValueKind::Text,
        setting: None,
        repeatable: false,
        doc,
    }
}

const fn short(short: char, long: &'static str, doc: &'static str) -> Flag {
    Flag {
        long,
        short: Some(short),
        value: None,
        values: ValueKind::Text,
        setting: None,
        repeatable: false,
        doc,
    }
}

const fn valued(
    long: &'static str,
    value: &'static str,
    values: ValueKind,
    doc: &'static str,
) -> Flag {
    Flag {
        long,
        short: None,
        value: Some(value),
        values,
        setting: None,
        repeatable: false,
        doc,
    }
}

const fn short_valued(
    short: char,
    long: &'static str,
    value: &'static str,
    values: ValueKind,
    doc: &'static str,
) -> Flag {
    Flag {
        long,
        short: Some(short),
        value: Some(value),
        values,
        setting: None,
        repeatable: false,
        doc,
    }
}

const fn setting(
    long: &'static str,
    value: &'static str,
    values: ValueKind,
    key: &'static str,
    doc: &'static str,
) -> Flag {
    Flag {
        long,
        short: None,
        value: Some(value),
        values,
        setting: Some(key),
        repeatable: false,
        doc,
    }
}

const fn one(name: &'static str, values: ValueKind) -> Argument {
    Argument {
        name,
        count: ArgumentCount::One,
        values,
    }
}

const fn optional(name: &'static str, values: ValueKind) -> Argument {
    Argument {
        name,
        count: ArgumentCount::Optional,
        values,
    }
}

const fn some(name: &'static str, values: ValueKind) -> Argument {
    Argument {
        name,
        count: ArgumentCount::Some,
        values,
    }
}

const fn any(name: &'static str, values: ValueKind) -> Argument {
    Argument {
        name,
        count: ArgumentCount::Any,
        values,
    }
}

const BYTES: Flag = switch("bytes", "print exact numbers of bytes");
const DATA: Flag = setting(
    "data",
    "DIR",
    ValueKind::Directory,
    "data_dir",
    "the hub's data (default: hub in the base directory)",
);
pub const SHELLS: &[&str] = &["bash", "zsh", "fish"];

/// Flags that every command takes.
pub static GLOBAL: &[Flag] = &[
    switch("json", "print data as one JSON object, or one per line"),
    short('q', "quiet", "log errors only"),
    short('v', "verbose", "log more; twice for everything"),
    short('h', "help", "show the help of the command"),
    short('V', "version", "show the version"),
];

/// All commands, in the order of help.
pub static COMMANDS: &[Command] = &[
    messages::SEND,
    messages::LIST,
    messages::SHOW,
    messages::RETRY,
    messages::FLUSH,
    sync::SYNC,
    sync::DAEMON,
    sync::APPROVE,
    sync::ADOPT,
    sync::CONFLICTS,
    sync::TRASH_LIST,
    sync::TRASH_RESTORE,
    sync::TRASH_EMPTY,
    sync::FORGET,
    files::LOGIN,
    files::UPLOAD,
    files::DOWNLOAD,
    files::LS,
    files::INFO,
    files::RM,
    files::VERSIONS,
    files::RESTORE,
    files::EVENTS,
    Command {
        name: "start",
        group: CommandGroup::Machine,
        arguments: &[optional("DIR", ValueKind::Directory)],
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
        group: CommandGroup::Machine,
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
            "The last line is \"healthy\" (exit status 0), or \"degraded\" with the reasons (exit status 1). A directory that is not in sync, held deletes, files that cannot be synced, and directories that are not watched are reasons too. Conflict copies and skipped files (sockets, devices, names that are not UTF-8 or too long) are shown, but are not reasons.",
        ],
        examples: &[
            ("mesync status || echo degraded", "in a script"),
            ("mesync status --watch", "see it change"),
        ],
    },
    hub::SERVE,
    join::ACCEPT,
    join::INVITE,
    join::PAGE,
    join::RENEW_CERTIFICATE,
    hub::BACKUP,
    hub::MOVE,
    hub::RECOVER,
    hub::CHECK,
    keys::ADD,
    keys::LIST,
    keys::SET,
    keys::ROTATE,
    keys::REMOVE,
    hub::HOSTS,
    hub::REBIND,
    hub::HOSTS_REMOVE,
    Command {
        name: "completions",
        group: CommandGroup::Other,
        arguments: &[one("SHELL", ValueKind::Words(SHELLS))],
        flags: &[],
        doc: "print the completions for bash, zsh or fish",
        long: &[],
        examples: &[("eval \"$(mesync completions bash)\"", "in ~/.bashrc")],
    },
    Command {
        name: "words",
        group: CommandGroup::Other,
        arguments: &[
            one("KIND", ValueKind::Words(NAME_KINDS)),
            optional("BEGINNING", ValueKind::Text),
        ],
        flags: &[],
        doc: "print the names that a shell completes, one per line",
        long: &[
            "The completions call it: the hosts that the hub knows, the names of the keys of the hub on this machine, the ids of all messages or of failed ones, the files on the hub in the directory of BEGINNING, the old paths of the files in the trash. It waits for the hub for two seconds at most.",
        ],
        examples: &[(
            "mesync words hosts we",
            "the hosts whose names begin with we",
        )],
    },
    Command {
        name: "help",
        group: CommandGroup::Other,
        arguments: &[any("COMMAND", ValueKind::Command)],
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
            ArgumentCount::One => a.name.to_string(),
            ArgumentCount::Optional => format!("[{}]", a.name),
            ArgumentCount::Some => format!("{}…", a.name),
            ArgumentCount::Any => format!("[{}…]", a.name),
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
