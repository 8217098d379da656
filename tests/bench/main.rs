//! Figures, by hand: `cargo test --release --test bench -- --ignored --nocapture`. They test nothing.

#![allow(clippy::disallowed_methods)] // the benchmarks are users: they have a clock, threads and renames

mod hub;
#[allow(dead_code)] // they use a part
#[path = "../it/support/mod.rs"]
mod support;
mod sync;
