//! Numbers in `man/mesync.7`, which people rely on, against those of the program. Its other sentences are for people to check.

use std::fs;
use std::path::Path;

use mesync::internals::config::{SETTINGS, limits};
use mesync::internals::hub::routes::Route;
use mesync::internals::hub::server::head as guard;
use mesync::internals::wire::files;

fn default(key: &str) -> &'static str {
    SETTINGS.iter().find(|row| row.key == key).unwrap().default
}

#[test]
fn the_security_page_has_the_limits_of_the_program() {
    let page =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("man/mesync.7")).unwrap();
    for (wanted, what) in [
        (format!("At most {}.", limits::KEYS), "keys"),
        (
            format!("after {} within a minute", limits::WRONG_KEYS),
            "wrong keys",
        ),
        (
            format!(
                "good for {} hours",
                mesync::internals::hub::token::LIFETIME / 3600
            ),
            "the life of a token",
        ),
        (
            format!(".It hosts\n.Va max_hosts\n({}).\n", default("max_hosts")),
            "hosts",
        ),
        (
            format!("{} wait for one", limits::WAITING_HANDSHAKES),
            "handshakes",
        ),
        (
            format!(
                ".It event streams\n.Va max_streams\n({}) at the same time",
                default("max_streams")
            ),
            "event streams",
        ),
        (
            format!("end within {} seconds", mesync::internals::wire::KEEP_ALIVE),
            "the end of a stream after its key",
        ),
        (
            format!(
                "{} KiB each, {} in a request",
                mesync::internals::wire::MAX_MESSAGE / 1024,
                mesync::internals::wire::MAX_BATCH
            ),
            "messages",
        ),
        (
            format!("a chunk or a batch of files {} MiB", files::SINGLE >> 20),
            "chunks",
        ),
        (
            format!(
                "a list of chunks {} MiB",
                Route::CommitFile.body_limit(0) >> 20
            ),
            "lists of chunks",
        ),
        (
            format!(
                "{} KiB with a list of files",
                Route::FetchFiles.body_limit(0) >> 10
            ),
            "lists of files",
        ),
        (
            format!(
                "batches of files have {} MiB of their own",
                limits::FILE_MEMORY_BYTES >> 20
            ),
            "memory for files",
        ),
        (
            format!(
                "{} bytes of name, {} chunks",
                mesync::internals::relpath::MAX_PATH_BYTES,
                files::MOST_CHUNKS
            ),
            "files",
        ),
        (
            format!(
                "{} rows in a page of a list, {} files of {} KiB",
                files::PAGE,
                files::BATCH_FILES,
                files::BATCH_FILE >> 10
            ),
            "batches",
        ),
        (
            format!(
                " {} parts",
                mesync::internals::hub::files::multipart::MAX_PARTS
            ),
            "forms",
        ),
        (format!("in memory for {} days", limits::SEEN_DAYS), "ids"),
        (
            format!(
                "{} KiB, 64 lines, a target of {} KiB",
                guard::MAX_HEAD / 1024,
                guard::MAX_TARGET / 1024
            ),
            "the head",
        ),
    ] {
        assert!(
            page.contains(&wanted),
            "man/mesync.7: no {wanted:?} ({what})"
        );
    }
    for name in page
        .split("\n.Va ")
        .skip(1)
        .filter_map(|rest| rest.split([' ', '\n']).next())
    {
        let of_directories = mesync::internals::config::watch::SETTINGS
            .iter()
            .any(|s| s.key == name);
        let known = of_directories
            || SETTINGS.iter().any(|s| s.key == name)
            || ["source", "created_at"].contains(&name);
        assert!(known, "man/mesync.7: no setting or field {name}");
    }
}
