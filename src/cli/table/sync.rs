//! The rows of the table that are about directories that are kept in sync.

use super::{BYTES, Command, Flag, Group, Run, Values, any, one, short_valued, switch, valued};
use crate::cli::sync;

pub const WATCH: Flag = short_valued(
    'w',
    "watch",
    "DIR",
    Values::Directory,
    "the directory to keep in sync",
);
pub const YES: Flag = switch(
    "yes",
    "sync a home or system directory, or one with mesync's own data in it",
);
const REMOTE: Flag = valued(
    "remote",
    "PATH",
    Values::Text,
    "the directory on the hub (default: all of the hub)",
);
const SEND_ONLY: Flag = switch("send-only", "changes go to the hub only");
const RECEIVE_ONLY: Flag = switch("receive-only", "changes come from the hub only");

const GUARD: &str = "Deletes of more than ten files or a quarter of all within an hour, or of all that there are, are held until somebody approves them, here and on each machine that they come to: see approve. What was deleted on other machines stands in DIR/.mesync/trash for 30 days.";
const OVERLAP: &str = "A directory within a synced one, or with one within it, is refused (78), whichever client syncs that one: DIR/.mesync marks it. A subdirectory that gets such a marker later is left out, and status says so.";
const SETTINGS: &str = "Without -w: the directories under [[watch]] in config.toml. With it, what stands there about that directory holds too.";

pub const SYNC: Command = Command {
    name: "sync",
    group: Group::Files,
    arguments: &[],
    flags: &[
        WATCH,
        YES,
        REMOTE,
        SEND_ONLY,
        RECEIVE_ONLY,
        switch("dry-run", "only tell what would be done, and why"),
        switch("allow-deletes", "let all deletes through this time"),
        BYTES,
    ],
    doc: "bring a directory into sync with the hub, once",
    long: &[
        "Sends what has changed here since the last time, fetches what has changed elsewhere, and ends: for cron. What was changed on two machines is kept twice: the hub's under its name, this machine's as NAME.sync-conflict-TIME-HASH beside it. Exit status 0 only if all is in sync.",
        SETTINGS,
        OVERLAP,
        GUARD,
    ],
    examples: &[
        ("mesync sync -w ~/share", "both ways, all of the hub"),
        (
            "mesync sync -w /etc/app --remote web/app --receive-only",
            "take what others put there",
        ),
        ("mesync sync -w ~/share --dry-run", "look first"),
    ],
    run: Run::Command(sync::sync),
};

pub const DAEMON: Command = Command {
    name: "daemon",
    group: Group::Files,
    arguments: &[],
    flags: &[
        WATCH,
        YES,
        REMOTE,
        SEND_ONLY,
        RECEIVE_ONLY,
        valued(
            "debounce",
            "MS",
            Values::Text,
            "milliseconds for which a file must be quiet after repeated changes (default: 500)",
        ),
    ],
    doc: "keep a directory in sync with the hub",
    long: &[
        "Runs in the foreground until SIGTERM or SIGINT. What changes here is in the other machines' directories within a moment, and the other way round. start does the same and exchanges messages as well. Exit status 75 if another process keeps the directory in sync already.",
        SETTINGS,
        OVERLAP,
        GUARD,
    ],
    examples: &[
        ("mesync daemon -w ~/share", "both ways, all of the hub"),
        (
            "mesync daemon -w ~/photos --remote photos --send-only",
            "a backup",
        ),
    ],
    run: Run::Daemon(sync::daemon),
};

pub const APPROVE: Command = Command {
    name: "approve",
    group: Group::Files,
    arguments: &[one("DIR", Values::Directory)],
    flags: &[switch("dry-run", "only list the deletes that are held")],
    doc: "let deletes through that are held",
    long: &[
        "Exactly those that are held on this machine now: what is deleted after that is weighed anew, and so are they on the machines that they come to. Whoever did not mean it puts the files back instead. A daemon that runs carries them out at once, else the next start or sync does.",
    ],
    examples: &[
        ("mesync approve ~/share --dry-run", "which files would go"),
        ("mesync approve ~/share", "they may go"),
    ],
    run: Run::Command(sync::approve),
};

pub const ADOPT: Command = Command {
    name: "adopt",
    group: Group::Files,
    arguments: &[one("DIR", Values::Directory)],
    flags: &[],
    doc: "begin afresh with a directory as it is",
    long: &[
        "For a directory that is held because its marker, DIR/.mesync/id, is gone or another's: a disk that is not mounted looks like that, so look first. Nothing is deleted by it on any side: what is equal here and on the hub is in sync, what is different is kept twice, what is on one side only goes to the other.",
    ],
    examples: &[("mesync adopt ~/share", "it was restored from a backup")],
    run: Run::Command(sync::adopt),
};

pub const CONFLICTS: Command = Command {
    name: "conflicts",
    group: Group::Files,
    arguments: &[any("DIR", Values::Directory)],
    flags: &[BYTES],
    doc: "list what was set aside because two machines changed it",
    long: &[
        "Without DIR: in all directories that are kept in sync here. Compare the two, keep what is right under the name, and remove the copy.",
    ],
    examples: &[
        ("mesync conflicts", "all of them"),
        ("mesync conflicts ~/share --json", "for a script"),
    ],
    run: Run::Command(sync::conflicts),
};
