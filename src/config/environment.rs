//! Reads environment variables; no other file does, so that everything that the environment can
//! change is found from here. Variables are read when they are needed and never set.

use std::ffi::OsString;
use std::path::PathBuf;

pub fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// The user's home directory: `HOME`, or the one in the user database if that is unset or empty.
pub fn home() -> Option<PathBuf> {
    std::env::home_dir().filter(|home| home.is_absolute())
}

/// A variable that must be UTF-8; `None` if it is not.
pub fn text(name: &str) -> Option<String> {
    variable(name)?.into_string().ok()
}
