//! Downloads a long file that another machine is still sending, as its chunks arrive at the hub.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use super::partial::{Partial, damaged, is_list_of};
use super::{COPY_BUFFER_BYTES, Transfer, TransferStep};
use crate::chunking::zero_chunk;
use crate::client::{Download, HubResult};
use crate::wire::files::UpcomingFile;

/// Pauses before the hub is asked again for a chunk that has not arrived, doubled from the first to the second.
const MIN_ARRIVAL_PAUSE: Duration = Duration::from_millis(50);
const MAX_ARRIVAL_PAUSE: Duration = Duration::from_secs(2);

/// The bytes of a file that are there before it is committed.
pub struct BegunFile(pub(super) Partial);

/// How an early download ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlyEnd {
    /// The file is complete, or the hub no longer has the announcement.
    Over,
    /// It was stopped, or the hub could not be reached.
    Broken,
}

impl Transfer<'_> {
    /// Fills `file` with the content of an announced file, keeping valid bytes that it has. `pause` waits, or says with
    /// `false` to stop; it is also asked between pieces, with no time. Errors: of the local disk, or of the list.
    pub fn download_early(
        &self,
        upcoming: &UpcomingFile,
        file: File,
        pause: &dyn Fn(Duration) -> bool,
    ) -> HubResult<(BegunFile, EarlyEnd)> {
        let chunks = self.hub.upcoming_chunks(upcoming.id)?;
        let name = upcoming.name.full();
        if !is_list_of(&chunks, upcoming.size) {
            return Err(damaged(&name).into());
        }
        let mut partial = Partial::of(file, PathBuf::from(name), chunks, false);
        partial.resume(self)?;
        let mut wait = MIN_ARRIVAL_PAUSE;
        while let Some(chunk) = partial.chunks.get(partial.next).copied() {
            if !pause(Duration::ZERO) {
                return Ok((BegunFile(partial), EarlyEnd::Broken));
            }
            if partial.is_between_chunks() && chunk == zero_chunk() && partial.leave_hole()? {
                continue;
            }
            match self.hub.upcoming_content(upcoming.id, partial.at) {
                Ok(Some(answer)) => {
                    let before = partial.at;
                    if !self.take_arrived(answer, &mut partial, pause)? {
                        return Ok((BegunFile(partial), EarlyEnd::Broken));
                    }
                    if partial.at > before {
                        wait = MIN_ARRIVAL_PAUSE;
                        continue;
                    }
                }
                Ok(None) => {}
                Err(failure) if matches!(failure.status, 404 | 416) => break,
                Err(failure) => {
                    log::debug!(
                        "cannot download a file that is being sent: {}",
                        failure.error
                    );
                    return Ok((BegunFile(partial), EarlyEnd::Broken));
                }
            }
            if !pause(wait) {
                return Ok((BegunFile(partial), EarlyEnd::Broken));
            }
            wait = (wait * 2).min(MAX_ARRIVAL_PAUSE);
        }
        Ok((BegunFile(partial), EarlyEnd::Over))
    }

    /// `false`: it was stopped. A response that breaks off is none of this function's errors: the next one continues.
    fn take_arrived(
        &self,
        mut answer: Download<'_>,
        partial: &mut Partial,
        pause: &dyn Fn(Duration) -> bool,
    ) -> HubResult<bool> {
        let mut buffer = vec![0; COPY_BUFFER_BYTES];
        while partial.next < partial.chunks.len()
            && let Ok(n @ 1..) = answer.read(&mut buffer)
        {
            partial.write(&buffer[..n])?;
            (self.watch)(TransferStep::Passed(n as u64));
            if !pause(Duration::ZERO) {
                return Ok(false);
            }
        }
        // a response that was read to its end frees the connection for the next request
        let _ = answer.read(&mut buffer);
        Ok(true)
    }
}
