//! mesync keeps machines in sync through one hub over HTTP. This is its architecture.
//!
//! A **hub** (`mesync serve`) stores files, and messages until every target machine has taken them. A **client** (`mesync start`)
//! moves both: a file in `outbox/` on one machine appears in `inbox/` on the others and runs a hook there; a change in a synced
//! directory appears in those of the others. One machine can be both. There is no other moving part.
//!
//! # Promises
//!
//! Everything else gives way to these, in this order.
//!
//! 1. *Nothing is lost.* A 2xx of the hub means: synced to its disk. A message has its final name only when it is whole.
//! 2. *No access without a key.* Nothing from another machine passes the hub's server without one. A hostile hub can make a
//!    client write messages into `inbox/` and change the content of a synced directory, and nothing else; a type never names
//!    a file outside `hooks/`, nor a path one outside its directory.
//! 3. *It recovers by itself.* Events are hints. The directories and the hub's log are the truth, and are scanned anyway.
//! 4. *It is small and quick.* Every queue and table has a bound, named in [`config::limits`].
//!
//! # The client
//!
//! ```text
//!  scripts, mesync send --> outbox/ --> tick --HTTP--> hub          inotify: a file appeared in outbox/
//!                                        |  ^                       sse:     a message waits on the hub
//!  failed/ (with reasons) <--------------+  +-- poll_interval       tick:    owns outbox/ and inbox/
//!  sent/   <-----------------------------+                          hooks:   decides what runs when
//!  inbox/  <-----------------------------+--> state/hooks/ --> hooks --> hook-1 … hook-N
//! ```
//!
//! [`daemon`] starts the threads; they carry these names (`ps -T`). `inotify` and `sse` send [`messages::exchange::TickEvent`]s to
//! `tick` over a bounded channel and may wait there; `tick` would find the same by itself at the next `poll_interval`, or within
//! a minute while the event stream is open. A thread that ends early ends the process with an error.
//!
//! **The spool is plain files, and every change of state is one rename or link** ([`messages`]):
//!
//! * *Picking up* a file that a script dropped: sync the file, rename it to `<time>_<id>.json`, sync `outbox/`, then send it, so that
//!   the hub and a restarted client know it by the same id. Its content is never rewritten: missing fields are read from the name.
//! * *Sending* ends with a rename to `sent/` that is not synced: the hub knows the id, and answers `duplicate` to a repetition.
//! * *Receiving* a page: each message under a hidden name in `inbox/`, its hook record as a copy in `state/hooks/`; one sync for
//!   all; one line for each in `state/seen/<day>`, synced; then the renames, in the order of the log. The last line is the cursor
//!   of the next pull, and the pull is the acknowledgement. After a crash, a hidden message with a line is renamed, and one
//!   without is removed and fetched again. So a crash repeats and never loses, and a message that a script has taken out of
//!   `inbox/` does not return.
//! * *Hooks* run from their records, in the order of arrival that their names begin with. The number of runs is part of a record's
//!   name and synced before the run. The process of a hook is recorded with its start time, so a restarted daemon does not run
//!   the hook beside it, nor take a process that the hook left behind for it.
//!
//! **Status.** Each part writes its own: `state/lock` has the problems of the client ([`messages::lock`]), `KEY.json` those of a
//! directory ([`files::status`]). Both also record that a process is running, until it ends cleanly, so `mesync status` can tell a
//! client that died from one that was stopped. Thread `state` reports the same files to the hub, which keeps the last report of each
//! machine in memory, for `mesync hosts`, the page and the metrics ([`hub::fleet`]).
//!
//! **Single files** ([`transfer`], over [`client`]; `mesync upload` and its like). A short file is one request, many very short ones
//! share one, and a long one is sent as chunks and a commit that names them all. Chunks that the hub has are not sent, which is also
//! how an interrupted transfer resumes; of a changed chunk only the changed pieces travel ([`transfer`], `parts`). Every change names
//! the revision that it replaces. A download is a hidden file beside its name, from which the same download resumes, until it is
//! whole, verified and synced. `s3em`, the server of `s3ec`, has neither chunks nor revisions and gets whole files. [`credentials`]
//! chooses server and key; [`login`] is the file that `s3ec` reads too.
//!
//! **Synced directories** ([`files`]; `mesync daemon`, `start`, `sync`). For each one:
//!
//! ```text
//!  changes here --> inotify --> debounce --> rescan --offer--> engine <--poll-- feed <-- sse: files changed on the hub
//!                                            scan              |                       clock: waiting paths are due
//!                                 tree on the disk <-- upload-1 … N, download-1 … N --> hub
//!                                 state/watch/KEY.redb: base, remote rows, cursor, intents
//! ```
//!
//! `sync-N` opens the directory and starts the other threads in a scope; more `upload` and `download` threads while there is work,
//! each of which carries out a group of paths that share commits, requests and syncs; `request-N` send chunks of a long file beside
//! their `upload` thread; `early` downloads what other machines are still sending. All of them report to its loop, as one closed list
//! of events ([`files::events`]). The loop writes the status, takes requests of a person (`KEY.approve`, `KEY.adopt`), and reopens the
//! directory after a failure, which does not affect the others.
//! `sse` reports changes on the hub to all directories (`sse-files`, if files are on another server than messages). One pass
//! ([`mod@daemon::once`]) calls the same methods without watching.
//!
//! * *The decision* is a three-way merge of the last version in sync, the local one and the hub's ([`files::plan`]), path by path,
//!   whatever reported the path. The hub's rows are stored with the cursor that passes them, so no reported change is forgotten.
//! * *Every action* is made durable as an intent before it begins, or has an open key at the hub; after a crash that path waits
//!   until its outcome is known. A file is examined again immediately before it is replaced. A commit whose loss only repeats
//!   such a question has no sync of its own ([`State::commit_soon`](files::engine::traits::State::commit_soon)).
//! * *All rows are of one history.* Every request and every change names the newest revision that the client knows, and a hub that
//!   does not have it refuses. Then both find the last revision that they have in common, the client marks its later ones as lost,
//!   and a listing shows what the hub has instead: an older row is the base of the lost one, and the local file is sent in its
//!   place; a later one is another edit ([`files::engine::rows::hear`]). A hub with no common revision is a stranger: equal
//!   files are adopted, of others both versions are kept. A hub with a new address is the same hub ([`files::moved`]).
//! * *Nothing is lost*: the loser of two edits is renamed to a conflict copy, a deleted file is moved to the trash, and many deletes
//!   wait for a person ([`files::delete_guard`]): they are approved here, or through the hub for all machines ([`hub::approvals`]).
//!   They are judged together when their burst has ended, which a single delete soon shows: the files beside it are still here.
//!   Moves between two directories of a client do not count ([`files::engine`], `neighbours`). A directory without its marker is
//!   not touched, nor is one whose link now leads to another directory ([`files::repointed`]).
//! * *A directory* has a row if it is empty or has a mode other than 0755. Its mode is known before its content, on the hub
//!   and on the receiver, and its row is deleted after its content. A directory that its owner may not write to is opened for a
//!   change, and recorded before in `.mesync/opened` ([`files::tree`]).
//!
//! [`files::remote::s3em`] presents a server without revisions to the engine, within its limits, as one that has them.
//!
//! The engine ([`files::engine`]) works over traits. Its tests are a simulation that drives it through crashes, races, lost answers
//! and restored hubs. Each patch in `tests/mutants/` breaks one of its rules, and the simulation must catch it (`make mutants`).
//!
//! # The hub
//!
//! ```text
//!  TCP port --> server: one thread a client --> pool of private connections --> tiny_http: workers --> committer --> hub.redb
//!               head, keys, limits, bodies                                     routes                 one sync a group
//!                    ^                                                            |                        |
//!                    +------ jobs: long bodies <----------------------------------+                        |
//!  thread streams: all event streams <--------------------------------------------+ <------ wake-ups ------+
//! ```
//!
//! **The server** ([`hub::server`]) owns the port: nothing malformed, unbounded or without a key passes it, because tiny_http was made
//! for friendlier places. The port speaks TLS and plain HTTP: encryption is a layer below the same connection code, so limits and
//! timeouts apply to both. Requests are admitted against the memory that the process may have ([`hub::memory`]).
//!
//! **Joining.** A machine without a key reaches [`hub::joining`] through TLS only, and what it gets is a key ([`joining`] is its side).
//! A machine that has joined knows the hub by its certificate ([`pins`], [`hub::certificate`]).
//!
//! **Rights.** Each route names the right that it needs in one exhaustive table ([`hub::routes`], [`hub::rights`]), and the gate refuses;
//! what a key may not read is left out wherever names, ids or hashes are answered. A hash proves nothing: a key that may read a part
//! of the files uses a chunk that it has sent, or that a file which it may read has.
//!
//! **Committing.** Workers decide and hand each change to the committer, which puts all waiting changes into one transaction with one
//! sync, and then answers all of them. Such a group is plain data that contains its time and its callers: the same groups give the
//! same tables. Groups form a log ([`hub::commit_log`]). The log of a single hub is its transactions, and is not kept. Hubs that share
//! a bucket ([`hub::bucket`]) write each group as an object that is created once, before its outcome is known, and apply the objects in
//! order: so after the same number their tables are equal, and the data directory of such a hub is a view that may be lost. A hub
//! tells the others at once that it has written ([`hub::peers`]), and a client calls another one when its own fails ([`client`],
//! `endpoints`). The tests of the bucket are a simulation too ([`hub::bucket`], `sim`).
//!
//! **Messages** are numbered in one log. A broadcast is stored once, however many machines it has as targets; each machine has a
//! cursor. The log belongs to an *epoch*, a UUID of its data directory: numbers of another epoch mean nothing. A client counts its
//! starts and draws a random number at each, so that the hub detects a machine that was copied or set back ([`hub::continuity`]).
//!
//! **Files** are revisions under names ([`hub::store::files`]). Every change has a number, its *revision*, one count for the whole hub, and
//! a stored event: event streams read from the store, so a client that reconnects misses none. A name keeps its latest row, and a
//! replaced one is a version for a while. A number is no identity, because a disk that is set back (a snapshot of a virtual machine, a
//! raw copy) gives the same numbers again: so every commit draws a *tag*, entity tags and conditions have number and tag
//! ([`wire::revision`]), and the hub keeps the chain of its commits for a while. A client names the directories that it syncs
//! ([`wire::scope`]), and lists and hears nothing else; each page says up to which revision it has heard, so its cursor passes the
//! changes of others.
//!
//! **Contents** are cut into *chunks* ([`chunking`]), kept once however many files have them: short ones in the tables, many in one value
//! ([`hub::store`], `packs`), others as files that never change. The thread of a connection cuts a body while it arrives, and writes and
//! syncs the chunks in a staging directory. The committer alone moves a chunk to its place, before the transaction that names it, and
//! removes it, after the one that forgets it: so the two never meet, and a crash between them leaves a file that no table knows. A
//! change that depends on a revision is decided within its transaction. A damaged or missing chunk is recorded and requested
//! ([`hub::store`], `wanted`): the changes name the files, a client that has one sends the lost content, and received bytes always
//! replace the stored ones.
//!
//! # Reading order
//!
//! 1. [`wire`]: the data that travels. [`client`]: the calls of the hub.
//! 2. [`messages::plan`] and [`messages`]: the client's work with messages. [`transfer`]: its work with single files.
//! 3. Directories: [`files::plan`] decides, [`files::engine`] carries out, on [`files::tree`], [`files::state`] and [`files::remote`];
//!    [`files::watch`], [`files::debounce`] and [`mod@files::rescan`] find changes; [`files::directory`] combines these.
//! 4. [`daemon`]: how the client runs. [`hub`]: how the hub serves. [`hub::store`]: what it keeps.
//! 5. [`disk`] has the durable write and the only renames, [`database`] the files of tables (`lsm`: those whose keys are hashes),
//!    [`wait`] the wait of threads that watch, [`agent`] what all HTTP clients share.
//!
//! # Rules
//!
//! Dependencies point down: `messages` does not know the hub's insides, `hub` does not know the client, and both know `wire`. `files`
//! and `messages` do not know each other: [`daemon`] passes news of directories on as messages of mesync's own
//! ([`messages::local_events`]). The files of a folder do not use each other in a circle.
//!
//! Deciding is pure ([`messages::plan`], [`files::plan`], [`files::delete_guard`], the parsers of heads and forms, tokens, [`backoff`],
//! [`sse`]): it takes the time as a value.
//!
//! All modules are private: the library shows [`main`], and [`internals`], which lists what tests use, item by item. So the
//! compiler reports each item that nothing uses, and `pub` means "outside this module".
//!
//! `tests/tidy/` and `clippy.toml` enforce these rules; `tests/fuzz/checks/` has what must be true of every parser of foreign bytes.

mod agent;
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
mod joining;
mod logger;
mod login;
mod messages;
mod nearest;
mod pins;
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
