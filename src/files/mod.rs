//! The file half of a client: keeps one directory in step with the hub, both ways.
//!
//! It knows neither the message half nor the hub's insides; what travels is in `wire`. Here are the decisions ([`plan`],
//! [`conflict`], [`guard`]: pure) and what carries them out ([`engine`]); it starts no thread, watches nothing and does no I/O
//! of its own: the tree, the durable state and the hub are behind the traits of [`engine::env`].
//!
//! # How it is called
//!
//! One [`engine::Engine`] a directory, shared by the threads that work for it; dropping it at any moment loses nothing.
//!
//! 1. *Start*, one thread: [`Engine::new`](engine::Engine::new); [`clear`](engine::Engine::clear) each temporary name that the
//!    first scan finds, before anything else is done; then poll until [`Drained`](engine::Polled::Drained).
//! 2. *The feed*, one thread: [`poll`](engine::Engine::poll) when the event stream says that something is new, when it was
//!    opened again, and while a poll answers `More`. `NewEpoch`: scan everything, and poll again. The paths that a page names
//!    are offered by the poll itself.
//! 3. *The tree*, the watching and scanning thread: [`offer`](engine::Engine::offer) each path that may differ from its base,
//!    after the debounce time. `stat` against [`BaseRow::seen`](plan::BaseRow) is enough to tell; the engine hashes. A scan
//!    also offers what the base has and the tree has not. `offer` answers `false` when there is no room: wait until there is.
//! 4. *After a start, an overflow and every rescan*: [`sweep`](engine::Engine::sweep) until it returns `None`. It offers what is
//!    pending in the state, intents and open keys among it.
//! 5. *Transfers*, any number of threads: [`work`](engine::Engine::work) until it returns `None`, then wait for a poke (after
//!    an offer, a poll, a wake-up; after one's own progress too, which may have set others free).
//!    After a [`Later`](engine::Outcome::Later) no thread calls it for the backoff time: else everything that is due would
//!    be tried in turn at a hub that is not there.
//! 6. *The clock*, one thread: [`wake(false)`](engine::Engine::wake) while anything waits, and when the backoff time is over;
//!    [`wake(true)`](engine::Engine::wake) every few minutes, since what was counted by the guard is forgotten with time.
//!
//! A [`Fatal`](engine::Outcome::Fatal) report ends the work on that directory: drop the engine, look at the root, begin again.
//!
//! # What must be true
//!
//! * The remote row of a path is stored with the cursor that passes it, carried out or not: pending is what differs from the
//!   base, and no gap is ever passed and lost.
//! * Nothing is done to the tree or the hub that was not made durable as an intent or an open key before; nothing else is done
//!   at that path until it is known what became of it.
//! * A row is believed if the feed has told it, if it answers a change of ours that was made, or a question about a key; not
//!   if it stands in a refusal.
//! * No two threads are at one path, or at a path and one above it.

pub mod board;
pub mod conflict;
pub mod debounce;
pub mod directory;
pub mod engine;
pub mod group;
pub mod guard;
pub mod ignore;
pub mod limit;
pub mod look;
pub mod plan;
pub mod poke;
pub mod remote;
pub mod rules;
pub mod scan;
pub mod state;
pub mod status;
pub mod trash;
pub mod tree;
pub mod watch;

#[cfg(test)]
mod sim;
