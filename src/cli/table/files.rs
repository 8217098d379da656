//! The commands about files on the hub.

use super::{
    BYTES, Command, CommandGroup, ValueKind, one, optional, short, short_valued, some, switch,
    valued,
};

const WHAT: &str = "ID|PATH";
const RECURSIVE: &str = "recursive";
const PATHS: &str = "PATH is a path on the hub, such as docs/a.txt, or the path of a file in a directory that is synced with it: ./a.txt is always local, and a.txt is local if the hub has no file at that path.";

pub const LOGIN: Command = Command {
    name: "login",
    group: CommandGroup::Files,
    arguments: &[],
    flags: &[
        valued(
            "server",
            "URL",
            ValueKind::Text,
            "the server (default: that of the last login)",
        ),
        valued(
            "api-key",
            "KEY",
            ValueKind::Text,
            "the key; others on this machine can see it in the list of processes",
        ),
        valued(
            "api-key-file",
            "FILE",
            ValueKind::File,
            "read the key from a file, or from standard input if it is \"-\"",
        ),
    ],
    doc: "choose the server for files, and save its key",
    long: &[
        "Saves server, key and a token in ~/.config/s3ec/config.toml, for this user alone; s3ec reads the same file. Without a key on the command line, it is taken from MESYNC_API_KEY, or, at a terminal, asked for without being shown.",
        "The file commands use this server. Without a login, they use the server for messages. The key is sent to no other server.",
    ],
    examples: &[
        (
            "mesync login --server http://hub.internal:8080",
            "asks for the key",
        ),
        (
            "mesync login --server https://hub.example --api-key-file ~/key",
            "key from a file",
        ),
    ],
};

pub const UPLOAD: Command = Command {
    name: "upload",
    group: CommandGroup::Files,
    arguments: &[some("FILE", ValueKind::File)],
    flags: &[
        valued(
            "path",
            "DIR",
            ValueKind::Text,
            "the directory on the hub (default: its root)",
        ),
        valued(
            "name",
            "NAME",
            ValueKind::Text,
            "another name on the hub, for one file",
        ),
        short('r', RECURSIVE, "upload directories and everything in them"),
        BYTES,
    ],
    doc: "upload files, directories or standard input",
    long: &[
        "A last argument that ends with a slash is the directory on the hub, as with --path, unless -r is given and it is a directory here. FILE may be \"-\" for standard input, which needs --name. Of a directory, symbolic links are uploaded as links and never followed; sockets, FIFOs and devices are skipped, and so, with exit status 1, are names that are not UTF-8.",
        "Content that the hub already has is not sent: an interrupted upload resumes when it is repeated, and of a long file only the changed parts are sent. A file that changes while it is read is an error.",
    ],
    examples: &[
        ("mesync upload report.pdf docs/", "becomes docs/report.pdf"),
        ("mesync upload -r /etc --path web-1", "becomes web-1/etc/…"),
        (
            "pg_dump db | mesync upload - --name db.sql",
            "standard input",
        ),
    ],
};

pub const DOWNLOAD: Command = Command {
    name: "download",
    group: CommandGroup::Files,
    arguments: &[
        one(WHAT, ValueKind::Names("files")),
        optional("FILE", ValueKind::File),
    ],
    flags: &[
        short_valued(
            'o',
            "output",
            "FILE",
            ValueKind::File,
            "where to write it (default: its own name, here); \"-\" is standard output",
        ),
        short('r', RECURSIVE, "a directory and everything below it"),
        BYTES,
    ],
    doc: "download a file or directory",
    long: &[
        PATHS,
        "FILE and -o FILE are the same: the file to write, or a directory in which it keeps its own name.",
        "The file gets its name only when it is whole, verified and on the disk; it replaces an existing file of that name. An interrupted download resumes when it is repeated; until then its bytes are in a hidden file beside it, .mesync-….tmp. Mode and modification time are restored.",
        "With -r, files that are there already with the same content are left alone, others of the same name are replaced, and nothing is removed. A file that cannot be downloaded is reported, and the others follow.",
    ],
    examples: &[
        (
            "mesync download docs/report.pdf",
            "to report.pdf in the current directory",
        ),
        (
            "mesync download -r docs /tmp/docs",
            "the directory docs, as /tmp/docs",
        ),
        (
            "mesync download docs/db.sql -o - | psql db",
            "to standard output",
        ),
    ],
};

pub const LS: Command = Command {
    name: "ls",
    group: CommandGroup::Files,
    arguments: &[optional("DIR", ValueKind::Names("files"))],
    flags: &[
        valued(
            "path",
            "PREFIX",
            ValueKind::Text,
            "only files in directories whose path begins with this",
        ),
        valued(
            "search",
            "TEXT",
            ValueKind::Text,
            "only files whose name contains this",
        ),
        valued(
            "limit",
            "N",
            ValueKind::Text,
            "show at most this many (default: 50)",
        ),
        valued(
            "offset",
            "N",
            ValueKind::Text,
            "skip this many at the beginning",
        ),
        switch("all", "all of them"),
        switch("ids", "show the id of each, after its name"),
        BYTES,
    ],
    doc: "list the files on the hub",
    long: &[
        "DIR is a directory on the hub, listed with everything below it, or a file. Without DIR, everything on the hub is listed. \".\" and \"./docs\" are local directories that are synced with the hub, and so is docs if the hub has nothing at that path.",
        "Sorted by directory, then name. A slash after a name marks an empty directory, an @ a symbolic link.",
    ],
    examples: &[
        ("mesync ls docs --all", "all below docs"),
        ("mesync ls --search .pdf --json", "for a script"),
    ],
};

pub const INFO: Command = Command {
    name: "info",
    group: CommandGroup::Files,
    arguments: &[one(WHAT, ValueKind::Names("files"))],
    flags: &[BYTES],
    doc: "show everything about a file on the hub",
    long: &[PATHS],
    examples: &[(
        "mesync info docs/report.pdf",
        "size, hash, times, revision, last writer",
    )],
};

pub const RM: Command = Command {
    name: "rm",
    group: CommandGroup::Files,
    arguments: &[some(WHAT, ValueKind::Names("files"))],
    flags: &[short(
        'r',
        RECURSIVE,
        "everything below as well, if it is a directory",
    )],
    doc: "remove files from the hub",
    long: &[
        PATHS,
        "On a mesync hub they can be restored for a while: see versions. A file that another client changes at that moment is not removed.",
    ],
    examples: &[
        ("mesync rm docs/old.pdf docs/older.pdf", "two files"),
        ("mesync rm -r docs/2019", "a directory"),
    ],
};

pub const VERSIONS: Command = Command {
    name: "versions",
    group: CommandGroup::Files,
    arguments: &[one(WHAT, ValueKind::Names("files"))],
    flags: &[BYTES],
    doc: "list the versions that can be restored",
    long: &[
        PATHS,
        "Newest first; a deleted file has versions too. The hub keeps them for 30 days, unless its version_ttl says otherwise.",
    ],
    examples: &[(
        "mesync versions docs/report.pdf",
        "which revisions there are",
    )],
};

pub const RESTORE: Command = Command {
    name: "restore",
    group: CommandGroup::Files,
    arguments: &[one(WHAT, ValueKind::Names("files"))],
    flags: &[
        valued(
            "rev",
            "N",
            ValueKind::Text,
            "the revision (default: what was replaced or deleted last)",
        ),
        BYTES,
    ],
    doc: "make an older version the current one",
    long: &["The current version becomes an older one, so this can be undone in the same way."],
    examples: &[
        (
            "mesync restore docs/report.pdf",
            "undo the last change, or a delete",
        ),
        (
            "mesync restore docs/report.pdf --rev 4711",
            "one of those that versions lists",
        ),
    ],
};

pub const EVENTS: Command = Command {
    name: "events",
    group: CommandGroup::Files,
    arguments: &[],
    flags: &[
        valued(
            "since",
            "TIME",
            ValueKind::Text,
            "a time, 2026-11-21T10:30:00Z, or an age, 2h (default: 24h)",
        ),
        short('f', "follow", "keep showing new events"),
        BYTES,
    ],
    doc: "show what happened to files on the hub",
    long: &[
        "With --follow, it runs until it is stopped, and reconnects by itself; without --since, it then begins now.",
    ],
    examples: &[
        ("mesync events --since 2h", "the last two hours"),
        ("mesync events --follow --json", "for a script that reacts"),
    ],
};
