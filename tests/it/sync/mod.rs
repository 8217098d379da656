//! Directories that are kept in sync.

mod changes;
mod clones;
mod crashes;
mod crossing;
mod everywhere;
mod faults;
mod fleet;
mod folding;
mod folding_disk;
mod full;
mod guard;
mod heal;
mod histories;
mod hostile;
mod large;
mod limits;
mod modes;
mod mounts;
mod moves;
mod names;
mod overlap;
mod power_cut;
mod rights;
mod stamps;
mod storm;
mod three;
