//! The commands about the keys of a hub, and the flags for rights.

use super::{Command, CommandGroup, DATA, Flag, ValueKind, one, switch, valued};

pub const FILES: Flag = valued(
    "files",
    "DIR",
    ValueKind::Text,
    "it may access only files below DIR on the hub; repeatable",
)
.repeatable();
pub const READ_ONLY: Flag = switch("read-only", "it may read files, but not change them");
pub const NO_FILES: Flag = switch("no-files", "it may not access any files");
pub const SEND: Flag = valued(
    "send",
    "HOSTS",
    ValueKind::Text,
    "it may send to these only: none, HOST,... or all",
);
pub const NO_MESSAGES: Flag = switch("no-messages", "it receives no messages");
pub const ADMIN: Flag = switch(
    "admin",
    "it may admit machines, and approve deletes everywhere",
);

pub const ADD: Command = Command {
    name: "key add",
    group: CommandGroup::Hub,
    arguments: &[one("NAME", ValueKind::Text)],
    flags: &[DATA, FILES, READ_ONLY, NO_FILES, SEND, NO_MESSAGES, ADMIN],
    doc: "make a key for the machine NAME and print it",
    long: &[
        "Run it on the hub's machine. The key is shown only once, since the hub keeps its hash alone, and is valid at once. On the other machine, write it to a file of mode 0600 and set api_key_file to that.",
        "Without flags, the key has every right except to administer the hub. A key learns nothing about what it may not read, not even a name in an event.",
    ],
    examples: &[
        ("mesync key add web-1", "a key for web-1"),
        (
            "mesync key add backup --read-only --no-messages",
            "one that only reads files",
        ),
    ],
};

pub const LIST: Command = Command {
    name: "key list",
    group: CommandGroup::Hub,
    arguments: &[],
    flags: &[DATA],
    doc: "list the keys",
    long: &[
        "Names, rights and times, never the keys themselves. The running hub also knows when and from where each key was last used since the hub was started.",
    ],
    examples: &[("mesync key list", "the machines that have a key")],
};

pub const SET: Command = Command {
    name: "key set",
    group: CommandGroup::Hub,
    arguments: &[one("NAME", ValueKind::Names("keys"))],
    flags: &[
        DATA,
        FILES,
        READ_ONLY,
        switch("read-write", "it may read and change files"),
        NO_FILES,
        SEND,
        NO_MESSAGES,
        switch("messages", "it may receive messages"),
        ADMIN,
        switch("no-admin", "it may not administer the hub"),
    ],
    doc: "change the rights of the key of NAME",
    long: &[
        "Only the rights that flags name are changed; \"--files /\" and \"--send all\" lift a limit. A running hub applies the new rights at once: tokens and open event streams of the key are included.",
    ],
    examples: &[
        (
            "mesync key set web-1 --files www --files shared/web",
            "web-1 sees two directories",
        ),
        (
            "mesync key set web-1 --read-only",
            "and changes nothing there",
        ),
    ],
};

pub const ROTATE: Command = Command {
    name: "key rotate",
    group: CommandGroup::Hub,
    arguments: &[one("NAME", ValueKind::Names("keys"))],
    flags: &[DATA],
    doc: "make a new key for NAME and print it",
    long: &[
        "The old key is accepted until the new one is used for the first time, for a day at most: put the new one into the api_key_file of the machine, which reads it again by itself. The rights stay the same.",
    ],
    examples: &[(
        "mesync key rotate web-1",
        "the key of web-1 may be known to others",
    )],
};

pub const REMOVE: Command = Command {
    name: "key remove",
    group: CommandGroup::Hub,
    arguments: &[one("NAME", ValueKind::Names("keys"))],
    flags: &[DATA],
    doc: "remove the key of the machine NAME",
    long: &["The key and its tokens are refused at once."],
    examples: &[("mesync key remove web-1", "lock web-1 out")],
};
