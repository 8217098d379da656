//! The hub as its clients, strangers and operators meet it.

mod access;
mod batches;
mod chunks;
mod client;
mod crash;
mod faults;
mod files;
#[cfg(feature = "tls")]
mod joining;
mod keys;
mod list;
mod memory;
mod metrics;
mod network;
#[cfg(feature = "tls")]
mod older;
mod parts;
mod protocol_page;
mod rights;
mod scopes;
mod security_page;
mod seeds;
mod serve;
mod storms;
mod syncs;
#[cfg(feature = "tls")]
mod tls;
mod upcoming;
mod uploads;
