//! Messages from outbox to inbox, and the hooks that they run.

mod crash;
mod delivery;
mod durability;
mod errors;
mod faults;
mod hooks;
mod portal;
mod seen;
mod send_batch;
mod shortage;
