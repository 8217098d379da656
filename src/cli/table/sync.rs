//! The commands about synced directories.

use super::{
    Argument, BYTES, Command, CommandGroup, Flag, ValueKind, any, one, optional, short_valued,
    switch, valued,
};

pub const WATCH: Flag = short_valued(
    'w',
    "watch",
    "DIR",
    ValueKind::Directory,
    "the directory to keep in sync",
);
pub const YES: Flag = switch(
    "yes",
    "sync a home or system directory, or one with mesync's own data in it",
);
const REMOTE: Flag = valued(
    "remote",
    "PATH",
    ValueKind::Text,
    "the directory on the hub (default: all of the hub)",
);
const SEND_ONLY: Flag = switch("send-only", "changes go to the hub only");
const RECEIVE_ONLY: Flag = switch("receive-only", "changes come from the hub only");

const DIRECTORY: &[Argument] = &[optional("DIR", ValueKind::Directory)];
const GUARD: &str = "If more than ten files (or a quarter of all, if that is more), or all files, are deleted within an hour, the deletes are held until they are approved, here and on each machine that receives them: see approve. Files that other machines deleted are in DIR/.mesync/trash for 30 days.";
const OVERLAP: &str = "A directory that is inside a synced one, or contains one, is refused (78), whichever client syncs the other: DIR/.mesync marks it. A subdirectory that gets such a marker later is skipped, and status reports it.";
const SETTINGS: &str = "DIR and -w DIR are the same. Without either: the directories under [[watch]] in config.toml. If DIR is listed there, its settings apply too.";

pub const SYNC: Command = Command {
    name: "sync",
    group: CommandGroup::Directories,
    arguments: DIRECTORY,
    flags: &[
        WATCH,
        YES,
        REMOTE,
        SEND_ONLY,
        RECEIVE_ONLY,
        switch("dry-run", "only print what would be done, and why"),
        switch("allow-deletes", "let all deletes through this time"),
        BYTES,
    ],
    doc: "sync a directory with the hub, once",
    long: &[
        "Sends the changes since the last time, fetches those of other machines, and exits: for cron. If two machines changed a file, both versions are kept: the hub's under its name, this machine's as NAME.sync-conflict-TIME-HASH beside it. Exit status 0 only if all is in sync.",
        SETTINGS,
        OVERLAP,
        GUARD,
    ],
    examples: &[
        ("mesync sync ~/share", "both ways, all of the hub"),
        (
            "mesync sync /etc/app --remote web/app --receive-only",
            "receive the files of others",
        ),
        ("mesync sync ~/share --dry-run", "look first"),
    ],
};

pub const DAEMON: Command = Command {
    name: "daemon",
    group: CommandGroup::Directories,
    arguments: DIRECTORY,
    flags: &[
        WATCH,
        YES,
        REMOTE,
        SEND_ONLY,
        RECEIVE_ONLY,
        valued(
            "debounce",
            "MS",
            ValueKind::Text,
            "milliseconds that a file must stay unchanged after repeated changes (default: 500)",
        ),
    ],
    doc: "keep a directory in sync with the hub",
    long: &[
        "Runs in the foreground until SIGTERM or SIGINT. A change here reaches the other machines within a moment, and a change there reaches this one. start does the same and exchanges messages as well. Exit status 75 if another process already syncs the directory.",
        SETTINGS,
        OVERLAP,
        GUARD,
    ],
    examples: &[
        ("mesync daemon ~/share", "both ways, all of the hub"),
        (
            "mesync daemon ~/photos --remote photos --send-only",
            "a backup",
        ),
    ],
};

pub const APPROVE: Command = Command {
    name: "approve",
    group: CommandGroup::Directories,
    arguments: &[one("DIR", ValueKind::Directory)],
    flags: &[
        switch("dry-run", "only list the held deletes"),
        valued(
            "listed",
            "FILE",
            ValueKind::File,
            "allow those of this list only (- is standard input)",
        ),
        switch(
            "everywhere",
            "on all machines, including those that receive the deletes later",
        ),
    ],
    doc: "allow held deletes",
    long: &[
        "Allows exactly the deletes that this machine holds now: later ones are judged again, and so are these on each machine that receives them. If they were a mistake, put the files back instead. A running daemon carries them out at once, otherwise the next start or sync does.",
        "With --listed, it allows only the deletes in a list that --dry-run --json has printed, and of those only the ones that are still held at the same revision. Lines may be removed from the list.",
        "With --everywhere, the hub keeps the approval for 30 days, and every machine that holds a delete of the same file at the same revision carries it out, including machines that receive the deletes later. It needs a key with --admin, or the hub's own machine. With --listed, the deletes need not be held here.",
    ],
    examples: &[
        (
            "mesync approve ~/share --dry-run",
            "which files would be deleted",
        ),
        ("mesync approve ~/share", "allow them"),
        (
            "mesync approve ~/share --dry-run --json > list",
            "save the list, to read it first",
        ),
        (
            "mesync approve ~/share --listed list",
            "allow these deletes and no later ones",
        ),
        (
            "mesync approve ~/share --everywhere",
            "allow them on all machines",
        ),
    ],
};

pub const ADOPT: Command = Command {
    name: "adopt",
    group: CommandGroup::Directories,
    arguments: &[one("DIR", ValueKind::Directory)],
    flags: &[],
    doc: "accept a directory whose marker is missing",
    long: &[
        "For a directory that is held because its marker, DIR/.mesync/id, is missing or belongs to another directory. An unmounted disk looks the same, so check that first. It deletes nothing on either side: equal files count as in sync, both versions of files that differ are kept, and files that exist on one side only are copied to the other.",
    ],
    examples: &[("mesync adopt ~/share", "it was restored from a backup")],
};

pub const CONFLICTS: Command = Command {
    name: "conflicts",
    group: CommandGroup::Directories,
    arguments: &[any("DIR", ValueKind::Directory)],
    flags: &[BYTES],
    doc: "list the conflict copies in synced directories",
    long: &[
        "Without DIR: in all synced directories. Compare the two versions, keep the right one under the name, and remove the copy.",
    ],
    examples: &[
        ("mesync conflicts", "all of them"),
        ("mesync conflicts ~/share --json", "for a script"),
    ],
};

const TRASH: &str = "DIR is a synced directory, or one in it; without DIR: all synced directories.";

pub const TRASH_LIST: Command = Command {
    name: "trash list",
    group: CommandGroup::Directories,
    arguments: DIRECTORY,
    flags: &[BYTES],
    doc: "list the files that other machines deleted here",
    long: &[
        "They are in DIR/.mesync/trash for 30 days, and are shown with their old paths. \"mesync trash DIR\" does the same.",
        TRASH,
    ],
    examples: &[
        (
            "mesync trash list",
            "in all synced directories, the oldest first",
        ),
        ("mesync trash list ~/share --json", "for a script"),
    ],
};

pub const TRASH_RESTORE: Command = Command {
    name: "trash restore",
    group: CommandGroup::Directories,
    arguments: &[
        one("NAME", ValueKind::Names("trash")),
        optional("DIR", ValueKind::Directory),
    ],
    flags: &[valued(
        "to",
        "PATH",
        ValueKind::Text,
        "where to, relative to the synced directory (default: its old path)",
    )],
    doc: "move a file from the trash back into its directory",
    long: &[
        "NAME is an id that trash list shows, the beginning of one, or the old path or name of the file, if only one file in the trash has it. Of a path that was too long for the trash only the name is kept, and the file is restored into the root of the directory. An existing file is not overwritten. A process that syncs the directory sends the file to the other machines as a new one, otherwise the next sync does.",
        "PATH is relative to the synced directory; one that begins with / or ./ is a local path, as elsewhere. Missing directories are made.",
        TRASH,
    ],
    examples: &[
        (
            "mesync trash restore report.pdf",
            "to the root of its directory",
        ),
        (
            "mesync trash restore 20261128-135104-16 --to docs/report.pdf",
            "to its old place",
        ),
    ],
};

pub const TRASH_EMPTY: Command = Command {
    name: "trash empty",
    group: CommandGroup::Directories,
    arguments: DIRECTORY,
    flags: &[],
    doc: "remove all files from the trash",
    long: &[
        "They cannot be restored here any more; the hub keeps its own versions: see versions. A directory in the trash that another program has written to is left.",
        TRASH,
    ],
    examples: &[("mesync trash empty ~/share", "to free space now")],
};

pub const FORGET: Command = Command {
    name: "forget",
    group: CommandGroup::Directories,
    arguments: &[one("DIR", ValueKind::Directory)],
    flags: &[],
    doc: "forget a directory that is no longer synced",
    long: &[
        "Removes what this machine remembers about the directory, and the marker DIR/.mesync/id. All files stay, here and on the hub, and so does the trash, DIR/.mesync/trash. A process that syncs the directory must be stopped first, and a directory under [[watch]] in config.toml must be removed from there.",
        "If the directory is synced again later, equal files count as in sync, and both versions of files that differ are kept.",
    ],
    examples: &[("mesync forget ~/share", "status no longer shows it")],
};
