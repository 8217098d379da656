//! The commands that admit machines.

use super::keys::{ADMIN, FILES, NO_FILES, NO_MESSAGES, READ_ONLY, SEND};
use super::{Command, CommandGroup, DATA, Flag, ValueKind, any, one, switch, sync, valued};

const FOR: Flag = valued(
    "for",
    "TIME",
    ValueKind::Text,
    "for how long: 90s, 10m, 24h",
);
const REPLACE: Flag = switch("replace", "replace the key that the name already has");

pub const JOIN: Command = Command {
    name: "join",
    group: CommandGroup::Machine,
    arguments: &[one("URL", ValueKind::Text)],
    flags: &[
        valued(
            "name",
            "NAME",
            ValueKind::Text,
            "the name to ask for, instead of the present one",
        ),
        sync::WATCH,
        sync::YES,
        REPLACE,
    ],
    doc: "ask a hub to let this machine in, and wait until it does",
    long: &[
        "Makes a key for this machine, asks the hub at URL (http://HOST:PORT) to accept it, and waits. On the hub \"mesync accept\" shows the request with a code, which must be the one that is shown here: otherwise something between the two relays the request. When it is accepted, the hub, this machine's name, the key's file and the SHA-256 of the hub's certificate are written to config.toml; all its other lines stay. From then on, the hub is recognised by that certificate alone and called through TLS only. The key itself is never sent.",
        "start, daemon, sync and start --once ask by themselves if the hub refuses them and they have no key.",
        "URL may be an invitation as \"mesync invite\" prints it; with \"-\" it is read from standard input. It needs no accept.",
        "If the name already has a key, either another machine uses it or this machine was reinstalled: in the latter case, ask with --replace.",
    ],
    examples: &[
        ("mesync join http://machine-1:8080", "ask to be let in"),
        (
            "mesync join http://machine-1:8080 -w ~/share",
            "and sync a directory afterwards",
        ),
        ("mesync join - <invitation", "in a script"),
    ],
};

pub const ACCEPT: Command = Command {
    name: "accept",
    group: CommandGroup::Hub,
    arguments: &[any("NAME", ValueKind::Text)],
    flags: &[
        switch("all", "every machine that asks"),
        FOR,
        valued(
            "code",
            "CODE",
            ValueKind::Text,
            "only the machine that shows this code",
        ),
        REPLACE,
        DATA,
        FILES,
        READ_ONLY,
        NO_FILES,
        SEND,
        NO_MESSAGES,
        ADMIN,
    ],
    doc: "admit machines that ask to join, or list them",
    long: &[
        "Run it on the hub's machine, while the hub runs. Without a name it lists the machines that ask: name, address, code and since when. Compare the code with the one that the machine shows. A request is forgotten after an hour.",
        "The flags for rights are those of key add, and apply to the machine. Without any, it may do everything except administer the hub; with --replace, it keeps the rights of the key that it replaces.",
        "With --all --for TIME, every machine that asks is let in and printed, until the time is over or the command ends. A name that already has a key is not given to another machine this way.",
    ],
    examples: &[
        ("mesync accept", "which machines ask"),
        ("mesync accept machine-2", "let machine-2 in"),
        (
            "mesync accept machine-3 --read-only --files a",
            "machine-3 reads one directory",
        ),
        ("mesync accept --all --for 10m", "a room full of machines"),
    ],
};

pub const INVITE: Command = Command {
    name: "invite",
    group: CommandGroup::Hub,
    arguments: &[one("NAME", ValueKind::Text)],
    flags: &[
        FOR,
        valued(
            "url",
            "URL",
            ValueKind::Text,
            "the URL at which machines reach the hub",
        ),
        REPLACE,
        DATA,
        FILES,
        READ_ONLY,
        NO_FILES,
        SEND,
        NO_MESSAGES,
        ADMIN,
    ],
    doc: "print a command that lets the machine NAME in, once",
    long: &[
        "Run it on the hub's machine. The command works once, within 24 hours or the time that --for sets (at most 30 days). It contains a secret, of which the hub keeps only the hash: give it to that machine only. An invitation ends an earlier one for the same name.",
        "The flags for rights are those of key add, and apply to the machine.",
    ],
    examples: &[(
        "mesync invite web-1 | ssh web-1 mesync join -",
        "without a person there",
    )],
};

pub const PAGE: Command = Command {
    name: "hub page",
    group: CommandGroup::Hub,
    arguments: &[],
    flags: &[
        valued(
            "url",
            "URL",
            ValueKind::Text,
            "the URL at which browsers reach the hub",
        ),
        DATA,
    ],
    doc: "print an address of the hub's page, good for a day",
    long: &[
        "Run it on the hub's machine, while the hub runs. The address opens the page without a key: machines and their trouble, what waits for them, the latest changes of files, the disk. Whoever has it can change nothing and read no file. It contains a token after the #, which a browser sends to no server and writes to no log.",
        "With [hub] plain = \"local\" or \"none\" the address begins with https://, and a browser asks whether to trust the hub's own certificate, unless tls_cert names another.",
    ],
    examples: &[("mesync hub page", "open what it prints in a browser")],
};

pub const RENEW_CERTIFICATE: Command = Command {
    name: "hub renew-certificate",
    group: CommandGroup::Hub,
    arguments: &[],
    flags: &[DATA],
    doc: "make the certificate that the hub uses in 30 days",
    long: &[
        "Machines that have joined know the hub by its certificate. The hub tells them of the new one over their connections to the old one, and uses it after 30 days. A machine that does not call the hub within that time must join again.",
    ],
    examples: &[("mesync hub renew-certificate", "once every few years")],
};
