//! Threads `hooks` and `hook-N`: schedule the records of hooks, and run them.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, select};

use crate::clock;
use crate::error::{Result, plain};
use crate::messages::hooks::HookRecord;
use crate::messages::hooks::run::{HookRunner, RunResult};
use crate::messages::hooks::schedule::Schedule;

/// The interval between two scans of the records, and the pause after an error of the disk, which
/// only delays a hook.
const SCAN_PERIOD: Duration = Duration::from_secs(60);

/// Thread `hook-N`: runs one hook after another, each with the settings of that time.
pub fn run_hooks(
    setup: &dyn Fn() -> HookRunner,
    work: &Receiver<HookRecord>,
    ended: &Sender<(String, RunResult)>,
    stopping: &dyn Fn() -> bool,
) -> Result<()> {
    for record in work {
        if stopping() {
            break;
        }
        let ran = setup().run(&record, stopping).unwrap_or_else(|e| {
            log::warn!(
                "cannot run a hook: {}; retrying hook={} id={}",
                plain(&e),
                record.kind,
                record.id()
            );
            RunResult::Later(SCAN_PERIOD)
        });
        if ended.send((record.kind, ran)).is_err() {
            break;
        }
    }
    Ok(())
}

/// Thread `hooks`: passes records to the threads that run them. `until_idle`: returns when nothing
/// runs or can run now.
pub fn schedule_hooks(
    mut schedule: Schedule,
    woken: &Receiver<()>,
    stopped: &Receiver<()>,
    jobs: Sender<HookRecord>,
    ended: &Receiver<(String, RunResult)>,
    until_idle: bool,
) -> Result<()> {
    let mut scan = true;
    let mut next_scan = clock::monotonic();
    loop {
        let now = clock::monotonic();
        if std::mem::take(&mut scan) || now >= next_scan {
            schedule
                .scan(clock::now(), now)
                .unwrap_or_else(|e| log::warn!("{e}; hooks wait"));
            next_scan = now + SCAN_PERIOD;
        }
        while let Some(record) = schedule.next(now) {
            // never blocks: the channel has room for all records that run
            if jobs.send(record).is_err() {
                return Ok(());
            }
        }
        if until_idle && schedule.is_idle(now) {
            return Ok(());
        }
        let due: Instant = schedule.next_due().unwrap_or(next_scan).min(next_scan);
        select! {
            recv(ended) -> run => match run {
                Ok((kind, ran)) => scan = file_away(&mut schedule, &kind, ran),
                Err(_) => return Ok(()),
            },
            recv(woken) -> wakeup => match wakeup {
                Ok(()) => scan = true,
                // no sender is left: the daemon is stopping
                Err(_) => break,
            },
            recv(stopped) -> _ => break,
            default(due.saturating_duration_since(clock::monotonic())) => {}
        }
    }
    // running hooks end, and their records are renamed or removed
    drop(jobs);
    while let Ok((kind, ran)) = ended.recv() {
        file_away(&mut schedule, &kind, ran);
    }
    Ok(())
}

/// `true`: scan the records again.
fn file_away(schedule: &mut Schedule, kind: &str, ran: RunResult) -> bool {
    schedule
        .ended(kind, ran, clock::monotonic())
        .unwrap_or_else(|e| {
            log::warn!("{e}");
            false
        })
}
