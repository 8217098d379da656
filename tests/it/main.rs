//! The whole program from outside: the real binary, real hubs, real files. One binary for all parts, one thread a test.
//!
//! `cargo test --test it sync::guard` runs one file of them. What one test changes in this process would be met by the others,
//! so tests change nothing there: settings, limits, masks and directories are those of the processes that they start.

// the tests are users: they have a clock, threads, and rename as users do
#![allow(clippy::disallowed_methods)]

mod cli;
mod hub;
mod messages;
mod s3em;
mod support;
mod sync;
