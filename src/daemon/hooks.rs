//! Threads `hooks` and `hook-N`: hand out the records of hooks that are to run, and run them.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, select};

use crate::clock;
use crate::error::{Error, Result};
use crate::messages::hooks::Record;
use crate::messages::hooks::run::{Ran, Setup};
use crate::messages::hooks::schedule::Schedule;

/// Thread `hook-N`: runs one hook after the other.
pub fn run_hooks(setup: &Setup, work: &Receiver<Record>, ended: &Sender<(String, Ran)>, stopping: &dyn Fn() -> bool) -> Result<()> {
    for record in work {
        if stopping() {
            break;
        }
        let ran = setup.run(&record, stopping).map_err(|e| Error::io(format!("run hook {}", record.kind), &e))?;
        if ended.send((record.kind, ran)).is_err() {
            break;
        }
    }
    Ok(())
}

/// Thread `hooks`: hands records to those who run them. `until_idle`: returns when nothing runs or can run now.
pub fn schedule_hooks(
    mut schedule: Schedule,
    poked: &Receiver<()>,
    stopped: &Receiver<()>,
    jobs: Sender<Record>,
    ended: &Receiver<(String, Ran)>,
    until_idle: bool,
) -> Result<()> {
    let mut scan = true;
    let mut next_scan = clock::monotonic();
    loop {
        let now = clock::monotonic();
        if std::mem::take(&mut scan) || now >= next_scan {
            schedule.scan(clock::now(), now)?;
            next_scan = now + Duration::from_secs(60);
        }
        while let Some(record) = schedule.next(now) {
            // never waits: no more records are out than the channel holds
            if jobs.send(record).is_err() {
                return Ok(());
            }
        }
        if until_idle && schedule.is_idle() {
            return Ok(());
        }
        let due: Instant = schedule.next_due().unwrap_or(next_scan).min(next_scan);
        select! {
            recv(ended) -> run => match run {
                Ok((kind, ran)) => scan = schedule.ended(&kind, ran, clock::monotonic())?,
                Err(_) => return Ok(()),
            },
            recv(poked) -> poke => match poke {
                Ok(()) => scan = true,
                // nobody is left who could poke: the daemon ends
                Err(_) => break,
            },
            recv(stopped) -> _ => break,
            default(due.saturating_duration_since(clock::monotonic())) => {}
        }
    }
    // those that run come to their end, and their records are filed away
    drop(jobs);
    while let Ok((kind, ran)) = ended.recv() {
        schedule.ended(&kind, ran, clock::monotonic())?;
    }
    Ok(())
}
