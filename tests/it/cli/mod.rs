//! The commands as users and scripts meet them.

mod contrib;
mod proxies;
mod reload;
mod root;
mod status;
mod sync;
mod transfer;
mod usage;
