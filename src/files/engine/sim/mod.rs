//! The simulation: the unchanged engine in a world where everything fails, and the invariants
//! that must hold nevertheless.
//!
//! Three clients and a hub in memory; users that write, remove, rename and change modes at any
//! moment; requests that are lost, late or repeated; crashes between any two steps; other threads
//! of the same client in the middle of a step; a hub that forgets tombstones or is set back. Then
//! the disturbances end, and the invariants are checked ([`check`]). Contents have no bytes and
//! time is a counter. Nothing here decides about files.
//!
//! `MESYNC_SIM_SEEDS=N` sets the number of seeds, `MESYNC_SIM_FIRST=N` the first one; a failure
//! prints its seed and the history. Each patch in `tests/mutants/` breaks one rule of the program
//! or of this world, and a run must fail with it.

mod bursts;
mod check;
mod copies;
mod crashes;
mod directories;
mod histories;
mod hub;
mod names;
mod renames;
mod scenes;
mod side;
mod state;
mod tests;
mod tree;
mod user_moves;
mod users;
mod world;

use std::sync::Arc;

use crate::files::delete_guard::DeleteLimits;

use super::traits::{ChangeOutcome, ChangesResult, Env, HubChange};
use super::{Engine, GroupSize, Options, PollResult, WorkOutcome, WorkReport};
use hub::SimHub;
use side::Side;
use world::{Node, Shared, World};

/// Deletes that pass within [`WINDOW`] ticks.
const LIMIT: usize = 2;
const WINDOW: u64 = 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Config {
    Plain,
    /// The hub forgets tombstones.
    Drop,
    /// Also, an older hub, which knows no tags, is set back to a backup.
    Restore,
    /// The hub's disk is set back: the same epoch, and the same numbers again.
    SetBack,
    /// A backup is restored: another epoch, other numbers, the same history.
    Backup,
    /// Ignore rules change.
    Ignore,
    Guard,
    /// One client keeps no base and knows no preconditions.
    Legacy,
    /// Only one machine has a user.
    Single,
    /// Programs write through mappings.
    Mapped,
    /// Modes of directories change.
    Dirs,
    /// Calls on tree and state fail, and may have taken effect.
    Failing,
    /// A user renames directories between a crash and the next start.
    Moving,
    /// The disk of one or two clients folds names, and refuses some.
    Folding,
    /// Machines are copied, or set back to a copy.
    Copies,
}

impl Config {
    /// Whether the hub may be set back, which may restore content that a user has overwritten or
    /// deleted.
    fn restores(self) -> bool {
        matches!(self, Config::Restore | Config::SetBack | Config::Backup)
    }
}

/// The name of a conflict copy.
fn copy_of(path: &str) -> bool {
    path.contains(".sync-conflict-")
}

/// The original name of a conflict copy.
fn stem(path: &str) -> String {
    path.split(".sync-conflict-")
        .next()
        .unwrap_or(path)
        .to_string()
}

fn brief(answer: &ChangeOutcome) -> String {
    match answer {
        ChangeOutcome::Made(rows) => format!(
            "made {:?}",
            rows.iter().map(|(p, r)| (p, r.rev)).collect::<Vec<_>>()
        ),
        ChangeOutcome::Differs(row) => format!("412 {:?}", row.as_ref().map(|(p, r)| (p, r.rev))),
        other => format!("{other:?}"),
    }
}

fn brief_page(page: &ChangesResult) -> String {
    let ChangesResult::Page(page) = page else {
        return format!("{page:?}");
    };
    let rows = page.rows.iter().map(|(p, r)| {
        format!(
            "{p}@{}={:?}",
            r.rev,
            r.entry.map(|e| Node::content_of(&e.hash))
        )
    });
    format!(
        "{} {}",
        rows.collect::<Vec<_>>().join(" "),
        if page.more { "more" } else { "" }
    )
}

impl Engine {
    /// Takes the next work in any direction for so many paths at most, and carries it out.
    fn work(&self, most: usize) -> Option<Vec<WorkReport>> {
        self.take(None, GroupSize::up_to(most))
            .map(|group| self.carry_out(group))
    }
}

struct SimRun {
    shared: Arc<Shared>,
}

/// Runs one history. Returns the violations, and the history if `verbose`.
pub fn run(seed: u64, config: Config, verbose: bool) -> (Vec<String>, String) {
    let run = SimRun {
        shared: Shared::new(World::new(seed, config, verbose)),
    };
    run.noise(90);
    let stuck = run.quiet();
    let mut w = run.shared.lock();
    w.engines.clear();
    let mut wrongs = w.check();
    wrongs.extend(stuck);
    (wrongs, w.log())
}

impl SimRun {
    /// The engine of a client; a new one after a crash.
    fn engine(&self, i: usize) -> Arc<Engine> {
        let mut w = self.shared.lock();
        if !w.clients[i].crashed
            && let Some(engine) = &w.engines[i]
        {
            return engine.clone();
        }
        w.clients[i].crashed = false;
        let temps = w.clients[i].temps();
        let on = std::mem::replace(&mut w.on, false);
        let (guarded, quiet) = (w.config == Config::Guard, w.quiet);
        drop(w);
        let side = || Side {
            world: self.shared.clone(),
            i,
        };
        let boxed = Env {
            hub: Arc::new(side()),
            transfer: Arc::new(side()),
            tree: Arc::new(side()),
            state: Arc::new(side()),
            ambient: Arc::new(side()),
        };
        let limits = DeleteLimits {
            least: LIMIT as u64,
            share: 0,
            all: 1000,
        };
        let engine = Arc::new(
            Engine::new(
                boxed,
                Options {
                    limits,
                    allow_deletes: !guarded,
                    quiet,
                    ..Options::default()
                },
            )
            .expect("nothing fails here"),
        );
        engine.clear(&temps).expect("nothing fails here");
        let mut w = self.shared.lock();
        w.on = on;
        w.engines[i] = Some(engine.clone());
        engine
    }

    fn noise(&self, steps: usize) {
        for _ in 0..steps {
            let mut w = self.shared.lock();
            w.tick += 1;
            let (i, x) = (w.random(3), w.chance());
            let config = w.config;
            let restores = config.restores();
            let drops = restores || matches!(config, Config::Drop | Config::Guard | Config::Single);
            match x {
                ..0.22 => w.user(i),
                _ if w.clients[i].legacy => w.old_client(i),
                ..0.42 => {
                    drop(w);
                    self.poll(i);
                }
                ..0.46 if !w.flight.is_empty() => {
                    let at = w.random(usize::MAX) % w.flight.len();
                    let (change, host, bytes) = w.flight.remove(at);
                    land(&mut w, change, host, bytes);
                }
                ..0.48 if config == Config::Mapped => w.write_back(),
                ..0.475 if config == Config::Copies => w.copy_machine(i),
                ..0.48 if drops => {
                    w.hub.drop_tombstones();
                    w.say(|| "hub drops tombstones".into());
                }
                ..0.49 if restores => restore(&mut w),
                ..0.51 if config == Config::Ignore => {
                    let path = w.pick(&["a", "d/x"]).expect("there are two").to_string();
                    w.say(|| format!("c{i} ignores {path} or no more"));
                    let ignored = &mut w.clients[i].ignored;
                    if !ignored.remove(&path) {
                        ignored.insert(path);
                    }
                }
                ..0.53 if config == Config::Guard => {
                    let approves = w.chance() < 0.7;
                    drop(w);
                    if approves {
                        self.approve(i);
                    }
                }
                _ => {
                    let paths = w.clients[i].paths();
                    let whole = w.chance() < 0.2;
                    let some: Vec<String> = if whole {
                        Vec::new()
                    } else {
                        w.pick(&paths).into_iter().collect()
                    };
                    let (pieces, wake) = (1 + w.random(5), w.chance() < 0.5);
                    drop(w);
                    if whole {
                        self.rescan(i);
                    }
                    self.work(i, &some, pieces, wake);
                }
            }
        }
    }

    fn poll(&self, i: usize) -> bool {
        let engine = self.engine(i);
        match engine.poll() {
            Ok(PollResult::NewEpoch | PollResult::SetBack(_)) => {
                let paths = self.shared.lock().clients[i].paths();
                offer(&engine, &paths);
                true
            }
            Ok(PollResult::More | PollResult::Busy) => true,
            Ok(PollResult::Drained) | Err(_) => false,
        }
    }

    /// Like a walk through the whole tree.
    fn rescan(&self, i: usize) {
        let engine = self.engine(i);
        let sought = engine.sought();
        let w = self.shared.lock();
        let (paths, temps) = (w.clients[i].paths(), w.clients[i].temps());
        drop(w);
        offer(&engine, &paths);
        engine.walked(&sought, &temps, true);
    }

    /// Returns how many work items were carried out.
    fn work(&self, i: usize, paths: &[String], pieces: usize, wake: bool) -> usize {
        let engine = self.engine(i);
        offer(&engine, paths);
        if wake {
            engine.wake(true);
        }
        for n in 0..pieces {
            let most = self.shared.lock().group();
            let Some(reports) = engine.work(most) else {
                return n;
            };
            for report in &reports {
                if matches!(report.outcome, WorkOutcome::Fatal(_)) {
                    return n;
                }
                self.shared.lock().clients[i].reported(report);
            }
        }
        pieces
    }

    fn approve(&self, i: usize) {
        let engine = self.engine(i);
        let mut w = self.shared.lock();
        let c = &mut w.clients[i];
        let tokens: Vec<_> = c.pending().iter().map(|p| c.token(p)).collect();
        c.listed_tokens.extend(tokens.clone());
        w.say(|| format!("c{i} approves {tokens:?}"));
        drop(w);
        // a crash here happens before any client heard of it
        let _ = engine.approve(tokens);
    }

    /// Ends the disturbances: everything gets in sync, or it never will.
    fn quiet(&self) -> Vec<String> {
        self.shared.lock().on = false;
        let mut last = None;
        for round in 0..40 {
            for i in 0..3 {
                let mut w = self.shared.lock();
                w.tick += 1;
                if w.clients[i].legacy {
                    w.old_client(i);
                    continue;
                }
                let approves = round == 6 && w.config == Config::Guard && w.chance() < 0.5;
                drop(w);
                (0..60).take_while(|_| self.poll(i)).for_each(drop);
                if approves {
                    self.approve(i);
                }
                self.rescan(i);
                if self.work(i, &[], 2000, true) == 2000 {
                    return vec![format!("I1 c{i} never ends")];
                }
            }
            let mut w = self.shared.lock();
            if round == 1 {
                for (change, host, bytes) in std::mem::take(&mut w.flight) {
                    land(&mut w, change, host, bytes);
                }
            }
            let now = (
                w.hub.rev,
                w.hub.epoch,
                w.clients
                    .iter()
                    .map(|c| (c.fs.clone(), c.feed))
                    .collect::<Vec<_>>(),
            );
            if last.as_ref() == Some(&now) && round > if w.config == Config::Guard { 7 } else { 3 }
            {
                break;
            }
            last = Some(now);
        }
        Vec::new()
    }
}

/// Like a scan.
fn offer(engine: &Engine, paths: &[String]) {
    for path in paths {
        assert!(engine.offer(path), "there is room");
    }
}

/// A delayed request arrives.
fn land(w: &mut World, change: HubChange, host: String, bytes: bool) {
    let answer = w.hub.change(&change, &host, bytes);
    w.say(|| {
        format!(
            "late from {host}: {} if {:?}: {}",
            change.path,
            change.condition,
            brief(&answer)
        )
    });
}

fn restore(w: &mut World) {
    match w.backup.clone() {
        None => {
            w.backup = Some(w.hub.clone());
            w.say(|| "hub backup".into());
        }
        Some(backup) => {
            let content = |hub: &SimHub, path: &String| {
                hub.row(path).entry.map(|e| Node::content_of(&e.hash))
            };
            // also what was deleted and restored since
            let came_back = backup
                .rows
                .keys()
                .filter(|p| backup.row(p).rev != w.hub.row(p).rev);
            let forgotten: Vec<_> = came_back
                .filter_map(|p| Some((p.clone(), content(&backup, p)?)))
                .collect();
            w.forgotten.extend(forgotten);
            match w.config {
                Config::SetBack => {
                    let started = w.chance() < 0.7;
                    w.hub.set_back(&backup, started);
                    w.backup = None;
                }
                Config::Backup => w.hub.restore_known(&backup),
                _ => {
                    w.hub.restore(&backup);
                    w.flight.clear();
                }
            }
            let rev = w.hub.rev;
            w.say(|| format!("hub restored at {rev}"));
        }
    }
}
