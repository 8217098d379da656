//! The commands that run and check the hub, and list its hosts.

use super::{Command, CommandGroup, DATA, ValueKind, any, one, setting, switch, sync, valued};

pub const SERVE: Command = Command {
    name: "serve",
    group: CommandGroup::Hub,
    arguments: &[],
    flags: &[
        setting(
            "listen",
            "ADDR:PORT",
            ValueKind::Text,
            "listen",
            "address and port (default: 0.0.0.0:8080)",
        ),
        DATA,
        setting(
            "workers",
            "N",
            ValueKind::Text,
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
        "Until it has let a machine in, it serves its own machine only: see accept, invite and key add. Its port speaks TLS, which machines that have joined use, and plain HTTP beside it: [hub] plain says for which clients.",
    ],
    examples: &[
        ("mesync serve --start", "the hub and this machine's client"),
        ("mesync serve --start -w ~/share", "and sync a directory"),
        ("mesync serve --listen 10.0.0.1:9000", "one address only"),
    ],
};

pub const BACKUP: Command = Command {
    name: "hub backup",
    group: CommandGroup::Hub,
    arguments: &[one("DIR", ValueKind::Directory)],
    flags: &[DATA],
    doc: "copy the hub's data into a new directory",
    long: &[
        "Run it on the hub's machine, as the hub's user. A running hub makes the copy itself and serves requests meanwhile. DIR must be new or empty. On the same disk the contents of files are hard links, so keep a backup that is to survive the loss of the disk on another one.",
        "To restore it, stop the hub and put DIR in the place of its data directory. Every machine then compares all its files with the hub. Changes that were in sync after the backup are sent again, deletes included; later changes of other machines are kept beside them. A machine that does not know what it has in common with the hub deletes nothing.",
    ],
    examples: &[("mesync hub backup /mnt/usb/hub-monday", "onto another disk")],
};

pub const MOVE: Command = Command {
    name: "hub move",
    group: CommandGroup::Hub,
    arguments: &[],
    flags: &[
        DATA,
        switch(
            "to-bucket",
            "into the bucket of [hub] bucket, which must be empty",
        ),
        switch(
            "to-disk",
            "out of that bucket, into the new directory --data",
        ),
    ],
    doc: "move the hub into a shared bucket, or out of it",
    long: &[
        "The hub must be stopped to move into a bucket; its data directory becomes a view of the bucket, and any other machine with the bucket's access key can then start a hub. If it is interrupted, nothing has changed: run it again. Clients keep their keys and notice nothing.",
        "--to-disk ends all hubs of the bucket, copies everything into the directory --data, which must be new or empty, and makes that a hub of its own: remove [hub] bucket from the settings before you start it. The bucket stays as it is, and no hub uses it any more. If it is interrupted, it continues when it is run again.",
    ],
    examples: &[
        ("mesync hub move --to-bucket", "the hub of this machine"),
        ("mesync hub move --to-disk --data /srv/hub", "and back"),
    ],
};

pub const RECOVER: Command = Command {
    name: "hub recover",
    group: CommandGroup::Hub,
    arguments: &[],
    flags: &[
        DATA,
        switch(
            "without-view",
            "no machine has a view: continue with what the bucket has",
        ),
    ],
    doc: "start a damaged bucket again from this view of it",
    long: &[
        "For hubs that end with status 65 because the bucket lacks what they have seen. Stop all hubs of the bucket, then run this on the machine whose hub ran last: the bucket starts again from the view in its data directory and from the chunks there that the bucket lacks. Files whose contents are lost are named; machines that have them send them again. Every machine then compares all its files with the hub, as after a backup was restored.",
        "It is refused if the bucket has all that the view needs, or while a hub of the bucket runs, which takes 20 seconds to find out. If it is interrupted, run it again. Then start the hubs: those of other machines replace their views.",
        "With --without-view, in a directory without a hub's data, the bucket starts again from its newest snapshot and what its log has after that. What the bucket has lost is then lost; machines send their files again.",
    ],
    examples: &[("mesync hub recover", "with the view of this machine")],
};

pub const CHECK: Command = Command {
    name: "hub check",
    group: CommandGroup::Hub,
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
        "It reads the contents of all files, which can take a long time. The hub must be stopped; to check a running one, make a backup and check that. Exit status 65 if something is damaged. Data that are no longer needed are named too, but are not damage: the hub removes them.",
    ],
    examples: &[
        ("mesync hub check", "the hub of this machine"),
        ("mesync hub check --data /mnt/usb/hub-monday", "a backup"),
    ],
};

pub const HOSTS: Command = Command {
    name: "hosts",
    group: CommandGroup::Hub,
    arguments: &[any("HOST", ValueKind::Names("hosts"))],
    flags: &[valued(
        "wait",
        "TIME",
        ValueKind::Text,
        "wait until they are in sync, at most this long",
    )],
    doc: "list the machines that the hub knows, trouble first",
    long: &[
        "Shows the state of each and the reason, when it was last seen, and how many messages wait for it. A machine is silent when it has not reported its state for 45 seconds; degraded when it reports a problem (\"mesync status\" there shows more) or a message has waited for it for a minute; and unknown when it has reported no state since the hub was started, such as an older mesync, or one that cron runs.",
        "With --wait, the exit status is 0 when all of these machines have reported twice that they are in sync: changes from before the command have then arrived everywhere. It is 1 if the time is over first. Without HOST, it waits for all machines that the hub knows.",
    ],
    examples: &[
        ("mesync hosts", "which machines need attention"),
        ("mesync hosts --wait 5m", "in a script that deploys"),
        ("mesync hosts --wait 1m web-1 web-2", "these two only"),
    ],
};

pub const REBIND: Command = Command {
    name: "hosts rebind",
    group: CommandGroup::Hub,
    arguments: &[one("HOST", ValueKind::Names("hosts"))],
    flags: &[],
    doc: "let a replaced machine take over its old name",
    long: &[
        "The hub refuses a second machine under a name that it knows. If the first one no longer exists, this admits the new one, which continues where the old one stopped. It also clears the warning that a machine was copied or set back, until it happens again.",
    ],
    examples: &[("mesync hosts rebind web-1", "web-1 was reinstalled")],
};

pub const HOSTS_REMOVE: Command = Command {
    name: "hosts remove",
    group: CommandGroup::Hub,
    arguments: &[one("HOST", ValueKind::Names("hosts"))],
    flags: &[],
    doc: "forget a machine that no longer exists",
    long: &[
        "Removes HOST from the list of machines, with the messages that wait for it; it needs a key with --admin, or the hub's own machine. Its key is another matter: see key remove. A machine that calls again is listed again.",
    ],
    examples: &[("mesync hosts remove web-1", "web-1 was retired")],
};
