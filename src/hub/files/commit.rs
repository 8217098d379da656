//! `PUT /api/files/commit` and `POST /api/chunks/missing`: files as lists of stored chunks.

use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read};
use std::sync::atomic::Ordering::Relaxed;

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::answer::unwritten;
use super::head::trimmed;
use super::{Files, HeldMemory, answer, check_name, head};
use crate::chunking::MAX_CHUNK_BYTES;
use crate::hub::http::{Reply, Request};
use crate::hub::messages::SendReply;
use crate::hub::store::ops::files::{Author, Bytes, FileOp, Put};
use crate::wire::files::{
    AskedChunks, Chunk, Commit, EntryKind, ExtraMetadata, Hash, MOST_CHUNKS, MissingChunks, Name,
    SINGLE,
};
use crate::wire::revision::Condition;

/// Bytes of a commit without its chunks at most.
const MAX_FIELDS_BYTES: usize = 32 * 1024;
/// Bytes of the target of a symbolic link at most: PATH_MAX of Linux without its NUL.
const MOST_TARGET: u64 = 4095;
/// Levels of nested JSON at most: mesync sends no deeper JSON, which would cost stack.
const MAX_JSON_DEPTH: usize = 16;

impl Files {
    pub(super) fn commit(&self, request: Request, answer: SendReply) {
        self.read_list(
            request,
            answer,
            |this, request, body, answer, lease| match this.take_commit(request, body) {
                Ok(put) => {
                    this.events.upcoming.ended(&put.author.host, &put.name);
                    let (op, held) = (FileOp::put([put]), HeldMemory::Long(lease));
                    this.change(op, held, request, answer, answer::put)
                }
                Err(reply) => answer(reply),
            },
        );
    }

    pub(super) fn missing(&self, request: Request, answer: SendReply) {
        self.read_list(request, answer, |this, request, body, answer, lease| {
            answer(this.find_missing(request, body));
            drop(lease);
        });
    }

    fn find_missing(&self, request: &Request, body: &mut dyn Read) -> Reply {
        let asked: AskedChunks =
            match serde_json::from_reader(BufReader::with_capacity(64 * 1024, body)) {
                Ok(asked) => asked,
                Err(e) => {
                    return Reply::error(
                        400,
                        format!(
                            "the body must be {{\"chunks\": [SHA-256, …]}}: {}",
                            words(&e)
                        ),
                    );
                }
            };
        if asked.chunks.len() > MOST_CHUNKS {
            return Reply::error(413, too_many());
        }
        let missing = self
            .unproven(&asked.chunks, &[], request)
            .and_then(|unproven| {
                let mut asked = asked.chunks;
                asked.retain(|hash| !unproven.contains(hash));
                let mut missing = self.store.missing_chunks(&asked)?;
                missing.extend(unproven);
                Ok(missing)
            });
        match missing {
            Ok(missing) => Reply::json(200, &MissingChunks { missing }),
            Err(e) => Reply::failed(&e),
        }
    }

    fn take_commit(&self, request: &Request, body: &mut dyn Read) -> Result<Put, Reply> {
        let (condition, author) = (head::condition(request)?, head::author(request)?);
        self.checked(read(body)?, condition, author, request)
    }

    /// Checks a commit, and finds its chunks.
    pub(super) fn checked(
        &self,
        commit: Commit,
        condition: Condition,
        author: Author,
        request: &Request,
    ) -> Result<Put, Reply> {
        let name =
            Name::new(trimmed(&commit.path), &commit.name).map_err(|why| Reply::error(422, why))?;
        check_name(request, &name)?;
        let mut held_by = vec![name.clone()];
        if let Some(from) = &commit.from {
            let from = Name::new(&from.path, &from.name)
                .map_err(|why| Reply::error(422, format!("\"from\": {why}")))?;
            check_name(request, &from)?;
            held_by.push(from);
        }
        let most = self.max_upload.load(Relaxed);
        if commit.size > most {
            return Err(Reply::error(
                413,
                format!("the file is too long: {} bytes are the most", most),
            ));
        }
        check(&commit).map_err(|why| Reply::error(400, why))?;
        if self.committer.disk_is_full() {
            return Err(Reply::disk_full());
        }
        let hashes: Vec<Hash> = commit.chunks.iter().map(|chunk| chunk.sha256).collect();
        let unproven = self
            .unproven(&hashes, &held_by, request)
            .map_err(|e| Reply::failed(&e))?;
        if !unproven.is_empty() {
            return Err(answer::missing(unproven.into_iter().collect()));
        }
        let bytes = self
            .store
            .staged(&commit.chunks)
            .map_err(|e| unwritten(&e))?;
        if let (EntryKind::Symlink, Some(chunk), Some(bytes)) =
            (commit.kind, commit.chunks.first(), bytes.first())
        {
            self.check_target(chunk, bytes)?;
        }
        Ok(Put {
            name,
            kind: commit.kind,
            size: commit.size,
            sha256: commit.checksum_sha256,
            chunks: commit.chunks.into_iter().zip(bytes).collect(),
            mode: commit.mode,
            mtime: commit.mtime,
            content_type: commit.content_type.as_deref().and_then(head::content_type),
            extra: commit.extra,
            condition,
            from: commit.from,
            author,
            fresh: Uuid::now_v7(),
        })
    }

    /// Checks the target of a symbolic link before it is stored. The store reports a missing chunk.
    fn check_target(&self, chunk: &Chunk, bytes: &Bytes) -> Result<(), Reply> {
        let mut text = Vec::new();
        let reader: Option<Box<dyn Read>> = match bytes {
            Bytes::Inline(text) => Some(Box::new(text.as_slice())),
            Bytes::Staged(staged) => Some(Box::new(
                File::open(staged.path()).map_err(|e| unwritten(&e))?,
            )),
            Bytes::Lost => None,
            Bytes::Known => self
                .store
                .chunk(chunk.sha256)
                .map_err(|e| Reply::failed(&e))?
                .map(|reader| Box::new(reader) as _),
        };
        match reader.map(|reader| reader.take(MOST_TARGET + 1).read_to_end(&mut text)) {
            None => Ok(()),
            Some(Ok(_)) => is_target(&text).map_err(|why| Reply::error(400, why)),
            Some(Err(e)) => Err(unwritten(&e)),
        }
    }
}

/// Whether a symbolic link can have this target.
pub fn is_target(text: &[u8]) -> Result<(), String> {
    match std::str::from_utf8(text) {
        Ok(text) if text.contains('\0') => {
            Err("the target of a symbolic link cannot contain a NUL".into())
        }
        Ok(text) if (1..=MOST_TARGET as usize).contains(&text.len()) => Ok(()),
        Ok(_) => Err(format!(
            "the target of a symbolic link has 1 to {MOST_TARGET} bytes"
        )),
        Err(_) => Err("the target of a symbolic link must be UTF-8".into()),
    }
}

/// Checks whether the fields of a commit agree.
pub fn check(commit: &Commit) -> Result<(), String> {
    check_times(commit.mtime.as_deref(), &commit.extra)?;
    if commit.chunks.len() > MOST_CHUNKS {
        return Err(too_many());
    }
    if let Some(chunk) = commit
        .chunks
        .iter()
        .find(|c| !(1..=MAX_CHUNK_BYTES).contains(&c.size))
    {
        return Err(format!(
            "a chunk has 1 to {MAX_CHUNK_BYTES} bytes, not {}",
            chunk.size
        ));
    }
    let sum: u64 = commit.chunks.iter().map(|c| c.size).sum();
    if sum != commit.size {
        return Err(format!(
            "\"size\" is {}, but the chunks have {sum} bytes",
            commit.size
        ));
    }
    match (commit.kind, commit.chunks.as_slice()) {
        (EntryKind::Dir, [_, ..]) => return Err("a directory has no content".into()),
        (EntryKind::Symlink, _) if !(1..=MOST_TARGET).contains(&commit.size) => {
            return Err(format!(
                "the target of a symbolic link has 1 to {MOST_TARGET} bytes"
            ));
        }
        _ => {}
    }
    // equal bytes must have equal chunks, so only one way to cut them is allowed
    let hash_of_all = match commit.chunks.as_slice() {
        [] => Some(Hash::of(b"")),
        [one] => Some(one.sha256),
        _ if commit.size <= SINGLE => {
            return Err(format!("a file of up to {SINGLE} bytes is one chunk"));
        }
        _ => None,
    };
    match hash_of_all.filter(|hash| *hash != commit.checksum_sha256) {
        Some(hash) => Err(format!("\"checksum_sha256\" must be {hash}")),
        None => Ok(()),
    }
}

/// Checks that times are valid: they are stored as they were sent, for the life of the file.
pub fn check_times(mtime: Option<&str>, extra: &ExtraMetadata) -> Result<(), String> {
    for (name, time) in [
        ("mtime", mtime),
        ("ctime", extra.ctime.as_deref()),
        ("atime", extra.atime.as_deref()),
    ] {
        if let Some(time) = time.filter(|time| time.contains(' ') || head::time(time).is_none()) {
            return Err(format!(
                "\"{name}\" must be a time such as 2026-11-21T10:30:00.123456789Z, not \"{}\"",
                crate::wire::brief(time)
            ));
        }
    }
    match [&extra.username, &extra.groupname]
        .into_iter()
        .flatten()
        .find(|name| name.len() > 255)
    {
        Some(name) => Err(format!(
            "the name of a user or group has at most 255 bytes, not {}",
            name.len()
        )),
        None => Ok(()),
    }
}

fn too_many() -> String {
    format!("a file has at most {MOST_CHUNKS} chunks")
}

/// Parses short JSON that is not nested deeper than mesync's own.
pub fn shallow<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_JSON_DEPTH {
            return Err("it is nested too deeply".into());
        }
    }
    serde_json::from_slice(bytes).map_err(|e| words(&e))
}

/// The error of some JSON, shortened, because serde_json may quote the input at full length.
fn words(e: &serde_json::Error) -> String {
    e.to_string().chars().take(200).collect()
}

/// Parses a commit while it arrives, so that a long list of chunks is in memory once, and no other long value at all.
pub fn read(body: &mut dyn Read) -> Result<Commit, Reply> {
    let wrong = |why: String| Reply::error(400, format!("the body is not a commit: {why}"));
    let mut json = serde_json::Deserializer::from_reader(BufReader::with_capacity(64 * 1024, body));
    let parts = json
        .deserialize_map(Parts)
        .and_then(|parts| json.end().map(|()| parts));
    let (fields, chunks) = parts.map_err(|e| wrong(words(&e)))?;
    let commit: Commit = shallow(fields.as_bytes()).map_err(wrong)?;
    Ok(Commit { chunks, ..commit })
}

/// The fields of an object: `chunks` parsed, all others as text.
struct Parts;

impl<'de> Visitor<'de> for Parts {
    type Value = (String, Vec<Chunk>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        use serde::de::Error;
        let (mut fields, mut chunks) = (String::from("{"), None);
        while let Some(name) = map.next_key::<String>()? {
            if name == "chunks" {
                if chunks.replace(map.next_value_seed(Chunks)?).is_some() {
                    return Err(A::Error::duplicate_field("chunks"));
                }
                continue;
            }
            let value = map.next_value::<Box<RawValue>>()?;
            if fields.len() + name.len() + value.get().len() > MAX_FIELDS_BYTES {
                return Err(A::Error::custom("its fields are too long"));
            }
            fields.push_str(if fields.len() > 1 { "," } else { "" });
            fields.push_str(&serde_json::Value::from(name).to_string());
            fields.push(':');
            fields.push_str(value.get());
        }
        fields.push('}');
        Ok((fields, chunks.unwrap_or_default()))
    }
}

struct Chunks;

impl<'de> DeserializeSeed<'de> for Chunks {
    type Value = Vec<Chunk>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Chunk>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Chunks {
    type Value = Vec<Chunk>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of chunks")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Chunk>, A::Error> {
        let mut chunks = Vec::new();
        while chunks.len() < MOST_CHUNKS {
            match seq.next_element()? {
                Some(chunk) => chunks.push(chunk),
                None => return Ok(chunks),
            }
        }
        match seq.next_element::<IgnoredAny>()? {
            None => Ok(chunks),
            Some(_) => Err(serde::de::Error::custom(too_many())),
        }
    }
}
