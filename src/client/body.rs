//! Request bodies: bytes from memory and from files, of known length, which can be read again from
//! the beginning, because a request is sent again when a token was refused or a kept connection was
//! closed.
//!
//! It knows no route, and holds in memory only what the caller passed.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha256};

use crate::wire::files::Hash;

/// Called with the number of bytes each time some have been sent.
pub type BytesPassed<'a> = &'a dyn Fn(u64);

/// The content of a file, or a part of it.
#[derive(Clone, Copy)]
pub enum ByteSource<'a> {
    Bytes(&'a [u8]),
    /// `length` bytes of a file from `at` on. They must still have this hash when they are sent; `None`: the server checks.
    Part {
        file: &'a File,
        at: u64,
        length: u64,
        sha256: Option<Hash>,
    },
}

impl ByteSource<'_> {
    pub fn length(&self) -> u64 {
        match self {
            ByteSource::Bytes(bytes) => bytes.len() as u64,
            ByteSource::Part { length, .. } => *length,
        }
    }
}

/// Why the local side could not supply the announced bytes. ureq returns it as the error of the
/// request.
#[derive(Debug)]
pub enum ByteSourceError {
    /// Fewer bytes than were hashed before, or other ones.
    Changed,
    Read(io::Error),
}

impl std::fmt::Display for ByteSourceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ByteSourceError::Changed => f.write_str("the file changed while it was read"),
            ByteSourceError::Read(e) => write!(f, "{e}"),
        }
    }
}

impl std::error::Error for ByteSourceError {}

/// One part of a body.
pub enum Piece<'a> {
    Text(Vec<u8>),
    Content(ByteSource<'a>),
}

impl Piece<'_> {
    fn length(&self) -> u64 {
        match self {
            Piece::Text(text) => text.len() as u64,
            Piece::Content(source) => source.length(),
        }
    }
}

/// The body of a request.
pub enum Body<'a> {
    None,
    Json(Vec<u8>),
    Pieces {
        content_type: String,
        pieces: Vec<Piece<'a>>,
        passed: BytesPassed<'a>,
    },
}

/// The total length of all pieces.
pub fn length(pieces: &[Piece<'_>]) -> u64 {
    pieces.iter().map(Piece::length).sum()
}

/// Reads pieces in order. Never ends early without an error, because ureq would wait for the rest
/// forever.
pub struct PieceReader<'a> {
    pieces: &'a [Piece<'a>],
    /// Bytes read of the first piece.
    done: u64,
    hash: Sha256,
    passed: BytesPassed<'a>,
}

impl<'a> PieceReader<'a> {
    pub fn new(pieces: &'a [Piece<'a>], passed: BytesPassed<'a>) -> PieceReader<'a> {
        PieceReader {
            pieces,
            done: 0,
            hash: Sha256::new(),
            passed,
        }
    }

    fn next_bytes(&mut self, piece: &Piece<'_>, out: &mut [u8]) -> Result<usize, ByteSourceError> {
        let (bytes, counts): (&[u8], bool) = match piece {
            Piece::Text(text) => (text, false),
            Piece::Content(ByteSource::Bytes(bytes)) => (bytes, true),
            Piece::Content(ByteSource::Part {
                file,
                at,
                length,
                sha256,
            }) => {
                let most = (length - self.done).min(out.len() as u64) as usize;
                let n = match file.read_at(&mut out[..most], at + self.done) {
                    Ok(0) => return Err(ByteSourceError::Changed),
                    Ok(n) => n,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                        return self.next_bytes(piece, out);
                    }
                    Err(e) => return Err(ByteSourceError::Read(e)),
                };
                if let Some(sha256) = sha256 {
                    self.hash.update(&out[..n]);
                    // the last bytes are held back if they would complete unverified content
                    if self.done + n as u64 == *length
                        && Hash(self.hash.finalize_reset().into()) != *sha256
                    {
                        return Err(ByteSourceError::Changed);
                    }
                }
                (self.passed)(n as u64);
                return Ok(n);
            }
        };
        let rest = &bytes[self.done as usize..];
        let n = rest.len().min(out.len());
        out[..n].copy_from_slice(&rest[..n]);
        if counts {
            (self.passed)(n as u64);
        }
        Ok(n)
    }
}

impl Read for PieceReader<'_> {
    /// Fills `out`: ureq makes a system call for each read.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while let Some((piece, rest)) = self.pieces.split_first()
            && filled < out.len()
        {
            if self.done == piece.length() {
                (self.pieces, self.done) = (rest, 0);
                continue;
            }
            let n = self.next_bytes(piece, &mut out[filled..]);
            let n = n.map_err(io::Error::other)?;
            self.done += n as u64;
            filled += n;
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[Piece<'_>]) -> (Result<Vec<u8>, String>, u64) {
        let (count, mut out) = (std::cell::Cell::new(0), Vec::new());
        let passed = |n| count.set(count.get() + n);
        let read = PieceReader::new(pieces, &passed)
            .read_to_end(&mut out)
            .map_err(|e| e.to_string());
        (read.map(|_| out), count.get())
    }

    #[test]
    fn pieces_are_read_in_order_and_only_content_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"0123456789").unwrap();
        let file = File::open(&path).unwrap();
        let part = |sha256| {
            Piece::Content(ByteSource::Part {
                file: &file,
                at: 2,
                length: 5,
                sha256,
            })
        };
        let pieces = |sha256| {
            vec![
                Piece::Text(b"<".to_vec()),
                part(sha256),
                Piece::Content(ByteSource::Bytes(b"x")),
                Piece::Text(b">".to_vec()),
            ]
        };
        let right = Some(Hash::of(b"23456"));
        // one call of the system for all of them
        let mut buffer = [0; 64];
        let all = pieces(right);
        let read_once = PieceReader::new(&all, &|_| ()).read(&mut buffer).unwrap();
        assert_eq!(&buffer[..read_once], b"<23456x>");
        assert_eq!(
            (read(&pieces(right)), length(&pieces(right))),
            ((Ok(b"<23456x>".to_vec()), 6), 8)
        );
        assert!(
            read(&pieces(Some(Hash::of(b"other"))))
                .0
                .unwrap_err()
                .contains("changed while it was read")
        );
        assert_eq!(read(&pieces(None)).0.unwrap(), b"<23456x>");
        std::fs::write(&path, b"0123").unwrap();
        assert!(
            read(&pieces(right))
                .0
                .unwrap_err()
                .contains("changed while it was read")
        );
    }
}
