//! Reports what a command did to several messages or hook runs: a line about each, and the number at the end.

use serde::Serialize;
use uuid::Uuid;

use super::output::Output;
use super::{CommandEnd, counted, fail, note};
use crate::error::{Error, Result};

/// What became of one message of a retry.
#[derive(Serialize)]
struct RetryResult<'a> {
    id: Option<Uuid>,
    file: &'a str,
    done: bool,
    error: Option<String>,
}

/// Does one after the other, says a line about each, and how many at the end. The last error is the command's own, the
/// others are reported on the way.
pub(super) fn conclude(
    results: impl Iterator<Item = (Option<Uuid>, String, String, Result<()>)>,
    noun: &str,
    outcome: &str,
    mut errors: Vec<Error>,
    out: &mut Output,
) -> Result<CommandEnd> {
    let mut done = 0;
    for (id, label, file, result) in results {
        let error = result.err();
        done += u64::from(error.is_none());
        match (out.json, &error) {
            (true, _) => out.object(&RetryResult {
                id,
                file: &file,
                done: error.is_none(),
                error: error.as_ref().map(Error::to_string),
            }),
            (false, None) => out.line(&format!("{label} {outcome}")),
            (false, Some(_)) => {}
        }
        errors.extend(error);
    }
    if !out.json {
        match (done, errors.is_empty()) {
            (0, true) => note(&format!("no failed {noun}s")),
            _ => out.line(&format!("{} {outcome}", counted(done, noun))),
        }
    }
    fail(errors)
}
