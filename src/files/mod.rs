//! The file half of a client: keeps one directory in sync with the hub, both ways.
//!
//! It knows neither the message half nor the hub's insides; what travels is in `wire`. Here are the decisions ([`plan`],
//! [`conflict`], [`delete_guard`]: pure) and what carries them out ([`engine`]), which does no I/O of its own: the tree, the durable state
//! and the hub are behind the traits of [`engine::traits`], and made by [`tree`], [`state`] and [`remote`]. [`directory`] puts all of
//! them together. Nothing here starts a thread: `daemon` does.
//!
//! # How it is called
//!
//! One [`Directory`](directory::Directory) with its engine, shared by the threads that work for it; dropping it at any moment
//! loses nothing. The threads of a daemon, by name:
//!
//! * `look`: [`clear_left_over`](directory::Directory::clear_left_over) before anything else; then
//!   [`rescan`](directory::Directory::rescan) what the hints say. `inotify` gives hints ([`watch`]), the first of which is to look
//!   at everything, as after an overflow and at every rescan. A look offers each path that may differ from its base: `stat`
//!   against [`BaseRow::seen`](plan::BaseRow) is enough to tell, the engine hashes; it offers what the base has and the tree
//!   has not, and what is pending in the state, intents and open keys among it ([`mod@rescan`]). While it goes on ([`look_around`](engine::Engine::look_around)) deletes wait, so that the guard sees all of them.
//! * `feed`: [`feed`](directory::Directory::feed) when the event stream says that something is new, when it was opened again, and
//!   every so often: it polls until [`Drained`](engine::Polled::Drained), and asks for a look at everything after `NewEpoch` and `SetBack`. A
//!   poll offers the paths of its page itself. And it is the clock: [`wake`](directory::Directory::wake) makes due what waits,
//!   and asks the guard anew every few minutes, since what it has counted is forgotten with time.
//! * `upload-N` and `download-N`: [`work`](directory::Directory::work), pieces of one [`Direction`](engine::Direction) until there are none,
//!   then wait for a [`wakeup`]. While the hub is out of reach ([`remote::link`]) none is begun, else everything that is due would
//!   be tried in turn at a hub that is not there; while the disk is full no download is.
//! * `sync-N` reads the [`stats`] and the engine's numbers, and writes down how it is ([`status`]).
//!
//! What a power cut has left empty is put right before any of that, when the directory is opened ([`power_loss`]).
//!
//! A [`Fatal`](engine::Outcome::Fatal) report ends the work on that directory: drop it, look at the root, begin again. One pass
//! does the same with fewer threads: feed, scan everything, and work until nothing changes any more.
//!
//! # What must be true
//!
//! * The remote row of a path is stored with the cursor that passes it, carried out or not: pending is what differs from the
//!   base, and no gap is ever passed and lost.
//! * Nothing is done to the tree or the hub that was not made durable as an intent or an open key before; nothing else is done
//!   at that path until its outcome is known.
//! * All rows are of one history of one hub; every request names the newest revision among them.
//! * A row is believed if the feed has told it, or if it answers an accepted change, or a question about a key; not
//!   if it is part of a refusal.
//! * No two threads are at one path, or at a path and one above it.

pub mod batcher;
pub mod conflict;
pub mod debounce;
pub mod delete_guard;
pub mod directory;
pub mod engine;
pub mod ignore;
pub mod moved;
pub mod overlap;
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
