//! The file half of a client: keeps directories in sync with the hub, in both directions.
//!
//! It knows neither the message half nor the internals of the hub; the data that travel are in
//! `wire`. [`plan`], [`conflict`] and [`delete_guard`] decide (pure); [`engine`] carries out, and
//! does no I/O of its own: the tree, the durable state and the hub are behind the traits of
//! [`engine::traits`], implemented by [`tree`], [`state`] and [`remote`]. [`directory`] combines
//! them. This module starts no thread: `daemon` does.
//!
//! # Threads
//!
//! The threads of a directory share one [`Directory`](directory::Directory) with its engine;
//! dropping it at any moment loses nothing. In a daemon they are, by name:
//!
//! * `rescan` calls [`clear_left_over`](directory::Directory::clear_left_over) first, and then
//!   [`rescan`](directory::Directory::rescan) for each hint. `inotify` reads events ([`watch`]), and
//!   `debounce` sends a hint when a path is quiet ([`watch::debouncer`]); the first one, one after
//!   an overflow, and one at each interval ask for a rescan of the whole tree. Neither waits for
//!   `rescan`: what finds no room in a channel becomes a rescan.
//!   A rescan offers each path that may differ from its base: comparing `stat` with
//!   [`BaseRow::seen`](plan::BaseRow) is enough, the engine hashes. It also offers paths that the
//!   base has and the tree does not, and pending rows of the state, such as intents and open keys
//!   ([`mod@rescan`]). Deletes wait while it runs ([`begin_rescan`](engine::Engine::begin_rescan)),
//!   so that the guard sees all of them.
//! * `feed` calls [`feed`](directory::Directory::feed) when the event stream reports changes, when
//!   the stream was reopened, and at intervals: it polls until
//!   [`Drained`](engine::PollResult::Drained), and requests a full rescan after `NewEpoch` and
//!   `SetBack`. A poll offers the paths of its page itself.
//! * `upload-N` and `download-N` call [`work`](directory::Directory::work): they carry out work in
//!   one [`Direction`](engine::Direction) until there is none, then wait for a [`wakeup`]. While
//!   the hub is unreachable ([`remote::link`]) they take no work, because every pending path would
//!   be tried in turn; while the disk is full no download starts.
//! * `sync-N` is the loop to which the others report: what happens to a directory is an
//!   [`Event`](events::Event). It writes the status ([`status`]) from the [`stats`] and the engine's
//!   numbers, and is the clock: [`wake`](directory::Directory::wake) makes waiting paths pending, and
//!   asks the guard again every few minutes, because the deletes that it counted expire.
//!
//! Files that a power loss left empty or with zero bytes are handled first, when the directory is
//! opened ([`power_loss`]).
//!
//! A [`Fatal`](engine::WorkOutcome::Fatal) report ends the work on a directory: drop it, check the
//! root, and reopen it. A single pass does the same with fewer threads: it polls, scans everything,
//! and works until nothing changes any more.
//!
//! # Invariants
//!
//! * The remote row of a path is stored with the cursor that passes it, whether it was applied or
//!   not: a path is pending if the row differs from the base, and no change is skipped.
//! * Nothing is done to the tree or the hub without a durable intent or open key; nothing else is
//!   done at that path until the outcome is known.
//! * All rows belong to one history of one hub; every request names the newest revision among them.
//! * A row is believed if it is from the feed, from the response to an accepted change, or from
//!   the response about a key; a row in a refusal is not.
//! * No two threads work on one path, or on a path and its ancestor.

pub mod batcher;
pub mod conflict;
pub mod debounce;
pub mod delete_guard;
pub mod directory;
pub mod engine;
pub mod events;
pub mod ignore;
pub mod moved;
pub mod overlap;
pub mod overview;
pub mod plan;
pub mod power_loss;
pub mod rate_limit;
pub mod remote;
pub mod repointed;
pub mod rescan;
pub mod state;
pub mod stats;
pub mod status;
pub mod trash;
pub mod tree;
pub mod wakeup;
pub mod watch;
