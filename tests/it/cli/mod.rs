//! The commands as users and scripts meet them.

mod blocks;
mod contrib;
mod exit_status;
mod install;
mod interrupted;
mod local_paths;
mod places;
mod proxies;
mod queues;
mod reload;
mod requests;
mod root;
mod status;
mod surprises;
mod sync;
mod terminals;
mod transfer;
mod trash;
mod usage;
mod words;
