//! mesync keeps machines in sync through one hub over plain HTTP. This is its architecture.
//!
//! A **hub** (`mesync serve`) holds messages until every machine that they are for has taken them, and files. A **client**
//! (`mesync start`) moves both: what appears in `outbox/` on one machine appears in `inbox/` on the others and runs a hook
//! there; what changes in a directory that is kept in sync changes in those of the others. One machine can be both. There is no
//! other moving part.
//!
//! # Promises
//!
//! Everything else gives way to these, in this order.
//!
//! 1. *Nothing is lost.* A 2xx of the hub means: on the disk, synced. A message is under its final name whole or not at all.
//! 2. *Nobody gets in.* Without a key nothing from another machine reaches more than the hub's front door. A hostile hub can
//!    make a client write messages into `inbox/` and change what is in a directory that is kept in sync, and nothing else; a
//!    type can never name a file outside `hooks/`, nor a path one outside its directory.
//! 3. *It heals by itself.* Events are hints. The directories and the hub's log are the truth, and are looked at anyway.
//! 4. *It is small and quick.* Every queue and table has a bound, named in [`config::limits`].
//!
//! # The client
//!
//! ```text
//!  scripts, mesync send --> outbox/ --> tick --HTTP--> hub          inotify: something came into outbox/
//!                                        |  ^                       sse:     something waits on the hub
//!  failed/ (with reasons) <--------------+  +-- poll_interval       tick:    owns outbox/ and inbox/
//!  sent/   <-----------------------------+                          hooks:   decides what runs when
//!  inbox/  <-----------------------------+--> state/hooks/ --> hooks --> hook-1 … hook-N
//! ```
//!
//! Threads are started in [`daemon`] and carry these names (`ps -T`). `inotify` and `sse` send [`messages::exchange::Event`]s to
//! `tick` over a bounded channel and may wait there; whatever they say, `tick` would find by itself at the next
//! `poll_interval`. A thread that ends early makes the process end with a message and a status that is not 0.
//!
//! **The spool is plain files, and every change of state is one rename or link** ([`messages`]):
//!
//! * *Picking up* a file that somebody dropped: sync the file, rename it to `<time>_<id>.json`, sync `outbox/`; only then is it
//!   sent, so the id that the hub remembers is the id after a crash. Its content is never rewritten: what is missing is read
//!   from the name at each attempt.
//! * *Sending* ends with a rename to `sent/` that is not synced: the hub knows the id, and answers `duplicate` if it is
//!   sent again.
//! * *Receiving* a page: each message under a hidden name in `inbox/`, its hook record as a copy in `state/hooks/`; one
//!   sync for all; one line for each in `state/seen/<day>`, synced; then the renames, in the order of the log. The last line
//!   is the cursor of the next pull, and the pull is the acknowledgement. After a crash, what is logged and hidden is
//!   renamed, what is hidden and not logged is removed and comes again. So a crash repeats and never loses, and what a
//!   script has taken out of `inbox/` does not come back.
//! * *Hooks* run from their records, in the order of arrival that their names begin with. The number of runs is part of a
//!   record's name and synced before the run; the process of the hook is written down, with its start time, so a daemon that was
//!   killed does not run it beside itself, and what a hook leaves behind is not taken for it.
//!
//! **How it is** is written where each part works: `state/lock` has the problems of the client, `KEY.json` those of a directory
//! ([`messages::lock`], [`files::status`]). Both say that a process works, and an end in order takes that back: so `mesync status`
//! tells a client that has died from one that was stopped.
//!
//! **Files on command** ([`transfer`], over [`client`]; `mesync upload` and its like): a short file goes in one request, many
//! very short ones together, a long one chunk by chunk and then a commit that names them all. What the hub has is not sent,
//! which is also how a broken transfer goes on. Every change names the revision that it replaces. A download stands under
//! its name only when it is whole, verified and synced; until then it is a hidden file beside it, which the same download
//! later goes on with. `s3em`, the server of `s3ec`, has no chunks and no revisions: there files go whole. Which server and
//! which key is for [`credentials`] to say; [`login`] is the file that `s3ec` reads too.
//!
//! **Directories in sync** ([`files`]; `mesync daemon`, `start`, `sync`). For each one:
//!
//! ```text
//!  changes here --> inotify --> debounce --> look --offer--> engine <--poll-- feed <-- sse: something has changed on the hub
//!                                            scan              |                       clock: what waits is due again
//!                                 tree on the disk <-- upload-1 … N, download-1 … N --> hub
//!                                 state/watch/KEY.redb: base, remote rows, cursor, intents
//! ```
//!
//! `sync-N` opens the directory, starts `inotify`, `look`, `feed`, `upload-N` and `download-N` in a scope, writes down how it is
//! for `mesync status`, takes what a person asks for (`KEY.approve`, `KEY.adopt`), and opens it again when something was wrong:
//! what ails one directory is no concern of the others. `sse` tells all of them that files have changed on the hub; where files
//! are on another server than messages, `sse-files` does. One pass ([`mod@daemon::once`]) calls the same methods without watching.
//!
//! * *What is decided* is a three-way merge of what was last in sync, what stands here and what the hub has ([`files::plan`]),
//!   path by path, whatever made somebody look at it. The hub's rows are stored with the cursor that passes them, so nothing
//!   that was heard of is forgotten.
//! * *What is done* was made durable before as an intent, or has an open key at the hub; after a crash nothing else is done at
//!   that path until it is known what became of it. Nothing is replaced that was not looked at again just before.
//! * *All rows are of one history.* Every question and every change names the newest revision that the client has heard of, and
//!   a hub that does not have it refuses. Then both find the last revision that they have in common, what the client has from
//!   after it is marked as lost, and a listing tells what the hub has instead: an older row is what the lost one was made of,
//!   and what is here goes up in its place; a later one is another edit ([`files::engine::traits::hear`]). A hub with which
//!   there is nothing in common is a stranger: equal files are adopted, others kept both. One with another address is no
//!   stranger ([`files::moved`]).
//! * *Nothing is lost*: a loser of two edits is renamed to a conflict copy, a deleted file is moved to the trash, many deletes
//!   wait for a person ([`files::delete_guard`]), weighed together when their burst has ended, but moves between two directories
//!   of a client are none ([`files::engine`], `neighbours`), a directory without its marker is not touched, nor another one to
//!   which its link leads by now ([`files::repointed`]).
//!
//! * *A directory* has a row where it is empty or has a mode of its own. Its mode is known before its content, on the hub and on
//!   the receiver, and its row is deleted after its content. One that its owner may not write to is opened for a change, noted
//!   before in `.mesync/opened` ([`files::tree`]).
//!
//! A server without revisions is put before the engine as one with them ([`files::remote::s3em`]), as well as that can be done.
//!
//! The engine ([`files::engine`]) works over traits. Its tests are a simulation that drives it through crashes, races, lost answers
//! and restored hubs, and notices each of its rules when it is switched off ([`files::rules`]).
//!
//! # The hub
//!
//! ```text
//!  TCP port --> server: one thread a client --> pool of private connections --> tiny_http: workers --> committer --> hub.redb
//!               head, keys, limits, bodies                                     routes                 one sync a group
//!                    ^                                                            |                        |
//!                    +------ jobs: long bodies, event streams <-------------------+      event streams <---+
//! ```
//!
//! The server ([`hub::server`]) owns the port: nothing that is malformed, unbounded or without a key gets past it, since
//! tiny_http was made for friendlier places. Workers decide and hand what changes something to the committer, which takes
//! whatever waits into one transaction with one sync, and then answers all of it. A group of changes is plain data with its
//! time and its callers in it: the same groups give the same tables. What is done for others is admitted against the memory that
//! the process may have ([`hub::memory`]).
//!
//! Files are revisions under names, and their content chunks under their hashes ([`chunking`]). A body is cut and written as it
//! comes, on the thread of its connection, and synced before the transaction that names it; a change that depends on a
//! revision is decided within that transaction. Every change has a number, and an event that is kept: streams of events read
//! them from the store, so none is lost on who hangs up and comes back.
//!
//! Messages are numbered in one log. A broadcast is stored once, however many machines it is for; each machine has a cursor.
//! The log belongs to an *epoch*, a UUID of its data directory: numbers of another epoch mean nothing. A client counts its starts
//! and draws a number at each, so that the hub can tell a copy of a machine, or one that was set back ([`hub::continuity`]).
//!
//! Every change to a file has a number too, its *revision*, one count for the whole hub; a name keeps its latest row, and what
//! was replaced is a version for a while ([`hub::store::files`]). A number is no identity: a disk that is set back (a snapshot of
//! a virtual machine, a raw copy) gives the same numbers again. So every commit draws a *tag*, entity tags and conditions have
//! number and tag ([`wire::revision`]), and the hub keeps the chain of its commits for a while. Contents are cut into *chunks*
//! ([`chunking`]), kept once however many files have them: short ones in the tables, others as files that never change. A chunk
//! is written and synced in a staging directory by whoever reads the upload. The committer alone moves it to its place, before
//! the transaction that names it, and removes it, after the one that forgets it: so the two never meet, and what a crash leaves
//! in between is a file that no table knows. What is found damaged or missing is remembered and asked for ([`hub::store`],
//! `wanted`): the changes name the files, a client that has one sends what is lost, and bytes that come always take the place of
//! those that are there.
//!
//! # Reading order
//!
//! [`wire`] says what travels, [`client`] how the hub is called, [`messages`] and [`messages::plan`] what a client does with
//! messages, [`transfer`] how it moves files. Of directories: [`files::plan`] what is decided, [`files::engine`] how that is
//! carried out, [`files::tree`], [`files::state`] and [`files::remote`] on what, [`files::watch`], [`files::debounce`]
//! and [`mod@files::rescan`] how changes are found, [`files::directory`] all of that together. [`daemon`] is how it
//! runs, [`hub::store`] what the hub keeps and [`hub`] how it serves. [`disk`] has the durable write and the only renames,
//! [`wait`] the wait of the threads that watch.
//! Dependencies point down: `messages` does not know the hub's insides, `hub` does not know the client, both know `wire`. `files`
//! and `messages` do not know each other: [`daemon`] tells news of the one to the other as messages of mesync's own
//! ([`messages::local_events`]).
//!
//! Deciding is pure ([`messages::plan`], [`files::plan`], [`files::delete_guard`], the parsers of heads and forms, tokens, [`backoff`],
//! [`sse`]): it takes the time as a value.
//! All modules are private: the library shows [`main`], and [`internals`], which lists what tests use, item by item. So the
//! compiler reports each item that nothing uses, and `pub` means "outside this module".
//! `tests/tidy/` and `clippy.toml` hold these rules; `tests/fuzz/checks.rs` holds what must be true of every parser of foreign
//! bytes.

mod backoff;
mod chunking;
mod cli;
mod client;
mod clock;
mod config;
mod credentials;
mod daemon;
mod database;
mod disk;
mod error;
mod files;
mod hub;
#[doc(hidden)]
pub mod internals;
mod logger;
mod login;
mod messages;
mod nearest;
mod relpath;
mod sd_notify;
mod service;
mod sse;
mod steady;
mod tls;
mod transfer;
mod wait;
mod wire;

pub use cli::main;
