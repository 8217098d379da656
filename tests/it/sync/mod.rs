//! Directories that are kept in sync.

mod changes;
mod clones;
mod faults;
mod folding;
mod guard;
mod heal;
mod histories;
mod hostile;
mod limits;
mod modes;
mod mounts;
mod moves;
mod names;
mod overlap;
mod power_cut;
mod stamps;
mod storm;
mod three;
