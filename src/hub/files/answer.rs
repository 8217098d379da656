//! Turns the outcome of a change into a reply.
//!
//! Pure. Every answer about one record has its revision as `ETag`; a false condition is answered with the current record.

use serde::Deserialize;
use serde_json::json;

use crate::hub::http::Reply;
use crate::hub::rights::Rights;
use crate::hub::store::ops::Outcome;
use crate::hub::store::ops::files::{Changed, KeyLookup};
use crate::wire::files::{BatchAnswer, BatchResult, ChangedRecord, Hash, KeyAnswer, Record};

/// A record with its revision.
pub fn record(status: u16, record: &Record) -> Reply {
    Reply::json(status, record).header("ETag", record.revision().etag())
}

/// The outcome as a caller with these rights may see it: it may have changed files earlier that it can no longer read.
pub fn shown(outcome: Outcome, rights: Option<&Rights>) -> Outcome {
    let Some(rights) = rights else { return outcome };
    match outcome {
        Outcome::Changed(changed) => Outcome::Changed(
            changed
                .into_iter()
                .map(|changed| shown_change(changed, rights))
                .collect(),
        ),
        Outcome::Asked(asked) => {
            let shown = |rows: Vec<Record>| {
                rows.into_iter()
                    .filter_map(|row| rights.shown(row))
                    .collect()
            };
            Outcome::Asked(KeyLookup {
                done: asked.done,
                made: shown(asked.made),
                current: shown(asked.current),
            })
        }
        other => other,
    }
}

fn shown_change(changed: Changed, rights: &Rights) -> Changed {
    let see = |record: Box<Record>| rights.shown(*record).map(Box::new);
    let seen = match changed {
        Changed::Created { record, renamed } => see(record).map(|record| Changed::Created {
            record,
            renamed: renamed.and_then(see),
        }),
        Changed::Updated { record, renamed } => see(record).map(|record| Changed::Updated {
            record,
            renamed: renamed.and_then(see),
        }),
        Changed::Unchanged(record) => see(record).map(Changed::Unchanged),
        Changed::Deleted(record) => see(record).map(Changed::Deleted),
        Changed::Precondition(Some(record)) => {
            see(record).map(|record| Changed::Precondition(Some(record)))
        }
        other => Some(other),
    };
    seen.unwrap_or(Changed::NoSuchFile)
}

pub fn no_chunk() -> Reply {
    Reply::error(404, "there is no such chunk")
}

/// The answer to a commit with chunks that are missing for its caller.
pub fn missing(chunks: Vec<Hash>) -> Reply {
    refusal(Changed::Missing(chunks))
}

pub fn no_file() -> Reply {
    Reply::error(404, "there is no such file")
}

pub fn no_version() -> Reply {
    Reply::error(404, "no such revision of this file is kept")
}

/// The answer to an upload or a commit.
pub fn put(outcome: Outcome) -> Reply {
    single_reply(outcome, |changed| match changed {
        Changed::Unchanged(now) => Reply::empty(204).header("ETag", now.revision().etag()),
        other => refusal(other),
    })
}

pub fn restored(outcome: Outcome) -> Reply {
    single_reply(outcome, |changed| match changed {
        Changed::Unchanged(now) => record(200, &now),
        other => refusal(other),
    })
}

pub fn deleted(outcome: Outcome) -> Reply {
    single_reply(outcome, |changed| match changed {
        Changed::Deleted(now) | Changed::Unchanged(now) => {
            Reply::json(200, &json!({"deleted": true, "record": now}))
                .header("ETag", now.revision().etag())
        }
        other => refusal(other),
    })
}

/// The answer to `GET /api/idempotency/{key}`.
pub fn asked(outcome: Outcome) -> Reply {
    match outcome {
        Outcome::Asked(KeyLookup {
            done,
            made,
            current,
        }) => Reply::json(
            200,
            &KeyAnswer {
                done,
                made,
                current,
            },
        ),
        Outcome::Changed(_) => refusal(Changed::OtherHistory),
        other => not_done(other),
    }
}

/// The answer to a batch: `fixed` has the results of files that were refused before the store, each at its place.
pub fn batch(fixed: Vec<Option<BatchResult>>, outcome: Outcome) -> Reply {
    let changed = match outcome {
        Outcome::Changed(changed) => changed,
        other => return not_done(other),
    };
    let mut changed = changed.into_iter();
    let results = fixed
        .into_iter()
        .filter_map(|fixed| fixed.or_else(|| changed.next().map(result)))
        .collect();
    Reply::json(200, &BatchAnswer { results })
}

/// The result of a change that was refused before the store, with the words of this reply.
pub fn refused_line(reply: &Reply) -> BatchResult {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct RefusalBody {
        error: Option<String>,
        missing: Vec<Hash>,
    }
    let RefusalBody { error, missing } = serde_json::from_slice(&reply.body).unwrap_or_default();
    BatchResult {
        status: reply.status,
        record: None,
        renamed_from: None,
        missing,
        error,
    }
}

fn result(changed: Changed) -> BatchResult {
    let good = |status, record: Box<Record>, renamed: Option<Box<Record>>| BatchResult {
        status,
        record: Some(*record),
        renamed_from: renamed.map(|old| *old),
        missing: Vec::new(),
        error: None,
    };
    match changed {
        Changed::Created { record, renamed } => good(201, record, renamed),
        Changed::Updated { record, renamed } => good(200, record, renamed),
        Changed::Deleted(record) => good(200, record, None),
        Changed::Unchanged(record) => good(204, record, None),
        other => {
            let (status, words) = words(&other);
            let (record, missing) = match other {
                Changed::Precondition(now) => (now.map(|now| *now), Vec::new()),
                Changed::Missing(missing) => (None, missing),
                _ => (None, Vec::new()),
            };
            BatchResult {
                status,
                record,
                renamed_from: None,
                missing,
                error: Some(words.into()),
            }
        }
    }
}

fn single_reply(outcome: Outcome, rest: impl FnOnce(Changed) -> Reply) -> Reply {
    let changed = match outcome {
        Outcome::Changed(mut changed) if changed.len() == 1 => changed.remove(0),
        other => return not_done(other),
    };
    match changed {
        Changed::Created {
            record: now,
            renamed,
        } => made(201, *now, renamed),
        Changed::Updated {
            record: now,
            renamed,
        } => made(200, *now, renamed),
        other => rest(other),
    }
}

/// The answer with a record and, after a rename, the tombstone of the old name.
fn made(status: u16, record: Record, renamed: Option<Box<Record>>) -> Reply {
    let tag = record.revision().etag();
    Reply::json(
        status,
        &ChangedRecord {
            record,
            renamed_from: renamed.map(|old| *old),
        },
    )
    .header("ETag", tag)
}

fn refusal(changed: Changed) -> Reply {
    match changed {
        Changed::Precondition(Some(now)) => record(412, &now),
        Changed::Precondition(None) => Reply::json(412, &None::<Record>),
        Changed::Missing(missing) => Reply::json(
            409,
            &json!({"error": words(&Changed::Missing(Vec::new())).1, "missing": missing}),
        ),
        Changed::DiskFull => Reply::disk_full(),
        other => {
            let (status, words) = words(&other);
            Reply::error(status, words)
        }
    }
}

fn words(changed: &Changed) -> (u16, &'static str) {
    match changed {
        Changed::Precondition(_) => (412, "the file has another revision"),
        Changed::Missing(_) => (409, "some chunks are missing: send them first"),
        Changed::NoSuchFile => (404, "there is no such file"),
        Changed::NoSuchVersion => (404, "no such revision of this file is kept"),
        Changed::Burnt => (409, "idempotency key is void; retry with a new key"),
        Changed::OtherHistory => (410, "the hub was set back: fetch its changes first"),
        Changed::DiskFull => (507, "the hub's disk is almost full: free some space"),
        _ => (500, "internal error; see the log of the hub"),
    }
}

/// The answer to the upload of a lost chunk: `reply` if it is in its place now.
pub fn mended(outcome: Outcome, reply: Reply) -> Reply {
    if outcome == Outcome::Done {
        reply
    } else {
        not_done(outcome)
    }
}

/// The answer if the hub has lost chunks of the requested content.
pub fn lost(missing: &[Hash]) -> Reply {
    let words = "the hub has lost part of this content, and waits for a machine that has it (\"mesync hub check\" names what is lost)";
    Reply::json(409, &json!({"error": words, "missing": missing}))
}

fn not_done(outcome: Outcome) -> Reply {
    match outcome {
        Outcome::DiskFull => Reply::disk_full(),
        Outcome::Failed(e) => Reply::failed(&e),
        _ => Reply::busy(),
    }
}

/// The answer if a body could not be written.
pub fn unwritten(e: &std::io::Error) -> Reply {
    match e.kind() {
        std::io::ErrorKind::StorageFull => Reply::disk_full(),
        _ => Reply::failed(&crate::error::Error::io("keep the body", e)),
    }
}
