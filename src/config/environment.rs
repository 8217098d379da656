//! Reads environment variables; no other file does, so that all that the environment can change is
//! found from here. Variables are read when they are needed and never set.

use std::ffi::OsString;

pub fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// A variable that must be UTF-8; `None` if it is not.
pub fn text(name: &str) -> Option<String> {
    variable(name)?.into_string().ok()
}
