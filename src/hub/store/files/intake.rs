//! Receives bodies: the reading thread cuts, hashes, writes and syncs them while they arrive.
//!
//! It changes no table and moves no chunk to its place.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use super::chunks::ChunkDir;
use crate::chunking::{Content, Splitter};
use crate::database::file::is_full;
use crate::hub::store::ops::files::{Bytes, MAX_INLINE_BYTES};
use crate::hub::store::staged::StagedChunk;
use crate::wire::files::{Chunk, Hash, SINGLE};

/// Bytes that are buffered, so that short writes of the caller do not become short writes to the disk.
const READ_BUFFER_BYTES: usize = 64 * 1024;
/// Bytes between two checks of the free space.
const LOOK_EVERY: u64 = 4 * 1024 * 1024;

/// An incoming body. Dropped before it is finished, it leaves no file.
pub struct Intake {
    dir: Arc<ChunkDir>,
    splitter: Splitter,
    /// The current chunk; the whole body while it may still be a single chunk.
    piece: ChunkBuffer,
    /// The cuts of the first bytes, in case the body becomes longer than a single chunk.
    cuts: Vec<Chunk>,
    single: bool,
    done: Vec<Bytes>,
    looked: u64,
    /// Sync each chunk at its end; otherwise the caller syncs the chunks of many bodies together.
    sync: bool,
}

/// A completely received body: its chunks are synced (but see `Store::intake_unsynced`). Dropped unused, it removes them.
#[derive(Debug)]
pub struct ReceivedBody {
    pub content: Content,
    /// One for each of `content.chunks`.
    pub bytes: Vec<Bytes>,
}

/// Bytes of a chunk; a file is made for them when they are many.
#[derive(Default)]
struct ChunkBuffer {
    file: Option<(File, StagedChunk)>,
    buffer: Vec<u8>,
}

impl ChunkBuffer {
    fn write(&mut self, dir: &ChunkDir, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) =
                bytes.split_at(bytes.len().min(READ_BUFFER_BYTES - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == READ_BUFFER_BYTES {
                self.flush(dir)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self, dir: &ChunkDir) -> io::Result<()> {
        let (file, _) = match &mut self.file {
            Some(file) => file,
            none => none.insert(dir.create()?),
        };
        file.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Ends the chunk: its file is synced, or it is short enough to be part of its operation.
    fn close(mut self, dir: &ChunkDir, sync: bool) -> io::Result<Bytes> {
        if self.file.is_none() && self.buffer.len() as u64 <= MAX_INLINE_BYTES {
            self.buffer.shrink_to_fit();
            return Ok(Bytes::Inline(self.buffer));
        }
        self.flush(dir)?;
        let Some((file, staged)) = self.file else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        if sync {
            dir.sync(&file)?;
        }
        Ok(Bytes::Staged(staged))
    }
}

impl Intake {
    pub(super) fn new(dir: Arc<ChunkDir>, sync: bool) -> Intake {
        let (splitter, piece) = (Splitter::default(), ChunkBuffer::default());
        Intake {
            dir,
            splitter,
            piece,
            cuts: Vec::new(),
            single: true,
            done: Vec::new(),
            looked: 0,
            sync,
        }
    }

    /// Adds bytes. The error for a lack of space is `io::ErrorKind::StorageFull`.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.take(bytes).map_err(full)
    }

    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if self.splitter.size() + bytes.len() as u64 >= self.looked + LOOK_EVERY {
            self.looked = self.splitter.size();
            self.dir.check_room()?;
        }
        while !bytes.is_empty() {
            let (piece, ended) = self.splitter.take(&mut bytes);
            if self.single && self.splitter.size() > SINGLE {
                self.cut_what_is_here()?;
            }
            self.piece.write(&self.dir, piece)?;
            match ended {
                Some(chunk) if self.single => self.cuts.push(chunk),
                Some(_) => self
                    .done
                    .push(std::mem::take(&mut self.piece).close(&self.dir, self.sync)?),
                None => {}
            }
        }
        Ok(())
    }

    /// Cuts a body that has become too long for a single chunk: copies the bytes so far into a file for each chunk.
    fn cut_what_is_here(&mut self) -> io::Result<()> {
        self.single = false;
        let mut whole = std::mem::take(&mut self.piece);
        whole.flush(&self.dir)?;
        let Some((mut file, _whole)) = whole.file else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        file.seek(SeekFrom::Start(0))?;
        for chunk in std::mem::take(&mut self.cuts) {
            let mut piece = ChunkBuffer::default();
            copy(
                &mut Read::by_ref(&mut file).take(chunk.size),
                &self.dir,
                &mut piece,
            )?;
            self.done.push(piece.close(&self.dir, self.sync)?);
        }
        copy(&mut file, &self.dir, &mut self.piece)
    }

    pub fn finish(mut self) -> io::Result<ReceivedBody> {
        let content = self.splitter.finish();
        if self.done.len() < content.chunks.len() {
            self.done
                .push(self.piece.close(&self.dir, self.sync).map_err(full)?);
        }
        Ok(ReceivedBody {
            content,
            bytes: self.done,
        })
    }
}

/// Maps all errors for a lack of space to one kind.
fn full(e: io::Error) -> io::Error {
    if is_full(&e) {
        io::ErrorKind::StorageFull.into()
    } else {
        e
    }
}

fn copy(from: &mut dyn Read, dir: &ChunkDir, to: &mut ChunkBuffer) -> io::Result<()> {
    let mut buffer = vec![0; READ_BUFFER_BYTES];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            n => to.write(dir, &buffer[..n])?,
        }
    }
}

/// Receives one chunk, which stays in the staging directory under its hash. `false`: the bytes have another hash or length.
pub fn stage_chunk(
    dir: &ChunkDir,
    hash: Hash,
    body: &mut dyn Read,
    length: u64,
) -> io::Result<bool> {
    use sha2::Digest;
    let (mut file, staged) = dir.create()?;
    let (mut sha, mut buffer, mut size) = (sha2::Sha256::new(), vec![0; READ_BUFFER_BYTES], 0);
    loop {
        let n = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        size += n as u64;
        if size > length.min(SINGLE) {
            return Ok(false);
        }
        sha.update(&buffer[..n]);
        file.write_all(&buffer[..n]).map_err(full)?;
    }
    if size != length || Hash(sha.finalize().into()) != hash {
        return Ok(false);
    }
    dir.keep(&staged, hash).map(|()| true)
}
