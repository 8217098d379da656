//! What must hold for whatever bytes come from outside: one check a parser, each of which panics if it does not.
//!
//! The fuzz targets grow inputs for these, and `tests/it/hub/seeds.rs` runs them over the inputs in `fuzz/seeds/`. They compare
//! with a second, naive reading of the same bytes, or with what the result itself is read as.

pub mod files;
pub mod http;
pub mod messages;
pub mod settings;

fn is_plain(name: &str, most: usize) -> bool {
    (1..=most).contains(&name.len())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
        && !name.starts_with(['.', '_', '-'])
}
