//! Messages from outbox to inbox, and the hooks that they run.

mod clocks;
mod crash;
mod delivery;
mod durability;
mod errors;
mod failed_hooks;
mod faults;
mod hooks;
mod outbox;
mod portal;
mod seen;
mod send_batch;
mod shortage;
