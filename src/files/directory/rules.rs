//! The ignore rules of a directory, and what applies while they cannot be read.

use crate::error::Error;
use crate::files::engine::traits::CallResult;
use crate::files::ignore;
use crate::files::state::DiskState;
use crate::files::stats::Stats;
use crate::files::tree::DiskTree;

/// The note in the state that keeps the last rules that could be read.
const RULES: &str = "rules";

/// Reads the ignore rules again; returns whether they changed. While the file cannot be read, the
/// last rules that could be read apply, also after a restart.
pub fn read(tree: &DiskTree, state: &DiskState, stats: &Stats) -> CallResult<bool> {
    match tree.read_rules() {
        Ok(changed) => {
            let text = tree.rules_text();
            if state.note(RULES)?.as_deref() != Some(&text) {
                state.set_note(RULES, &text)?;
            }
            stats.rules(None);
            Ok(changed)
        }
        Err(e) => {
            let (file, known) = (tree.root().path().join(ignore::FILE), state.note(RULES)?);
            let until = if known.is_some() {
                "the last valid rules apply"
            } else {
                "only this file is synced"
            };
            let why = Error::io(format!("read {}", file.display()), &e);
            let why = Error {
                what: format!("{}; until it is mended, {until}", why.what),
                ..why
            };
            if stats.rules(Some(why.clone())) {
                log::warn!("{why}");
            }
            Ok(known.is_some_and(|known| tree.use_rules(&known)))
        }
    }
}
