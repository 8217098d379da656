//! Threads that run one at a time, in an order drawn from a seed, on virtual time: so a history can be repeated.
//!
//! A thread gives way only in [`Schedule::pass`]. It belongs to a machine, which can sleep, and whose threads all end when it
//! crashes.

use std::panic::resume_unwind;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::hub::store::Random;

/// What unwinds a thread of a machine that has crashed.
pub struct Crashed;

pub type ThreadId = usize;
pub type MachineId = usize;

#[derive(Default)]
struct Thread {
    machine: MachineId,
    /// The start of its machine that it belongs to.
    start: u64,
    wake_at: u64,
    done: bool,
    /// Of its own, so that a turn wakes no other thread.
    turn: Arc<Condvar>,
}

#[derive(Default, Clone)]
struct Machine {
    start: u64,
    sleeps_until: u64,
    /// Milliseconds that its monotonic clock has missed.
    missed: u64,
}

struct State {
    random: Random,
    now: u64,
    running: ThreadId,
    threads: Vec<Thread>,
    machines: Vec<Machine>,
    pace: Pace,
}

/// How time passes when a thread gives way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// By days now and then.
    Leaps,
    /// By some milliseconds more than the next thread has waited for.
    Unsteady,
    /// By what the next thread has waited for.
    Exact,
}

pub struct Schedule {
    state: Mutex<State>,
}

impl Schedule {
    /// The calling thread becomes thread 0, of machine 0.
    pub fn new(seed: u64, machines: usize, now: u64) -> Schedule {
        let state = State {
            random: Random::new(seed),
            now,
            running: 0,
            threads: vec![Thread::default()],
            machines: vec![Machine::default(); machines],
            pace: Pace::Leaps,
        };
        Schedule {
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn below(&self, n: u64) -> u64 {
        self.state().random.below(n)
    }

    /// True once in `n`.
    pub fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn now(&self) -> u64 {
        self.state().now
    }

    /// A clock that stops while the machine sleeps.
    pub fn monotonic(&self, machine: MachineId) -> u64 {
        let state = self.state();
        state.now - state.machines[machine].missed
    }

    pub fn set_pace(&self, pace: Pace) {
        self.state().pace = pace;
    }

    /// A new thread, which may call [`Schedule::enter`].
    pub fn thread(&self, machine: MachineId) -> ThreadId {
        let mut state = self.state();
        let (start, wake_at) = (state.machines[machine].start, state.now);
        state.threads.push(Thread {
            machine,
            start,
            wake_at,
            done: false,
            turn: Arc::default(),
        });
        state.threads.len() - 1
    }

    /// The first call of a new thread: waits for its turn.
    pub fn enter(&self, me: ThreadId) {
        self.wait_for_turn(self.state(), me);
    }

    /// The last call of a thread.
    pub fn leave(&self, me: ThreadId) {
        let mut state = self.state();
        state.threads[me].done = true;
        state.choose();
    }

    pub fn is_done(&self, thread: ThreadId) -> bool {
        self.state().threads[thread].done
    }

    /// Lets others run, and continues after `time` milliseconds at the earliest.
    pub fn pass(&self, me: ThreadId, time: u64) {
        let mut state = self.state();
        state.threads[me].wake_at = state.now + time;
        state.choose();
        self.wait_for_turn(state, me);
    }

    fn wait_for_turn(&self, state: MutexGuard<'_, State>, me: ThreadId) {
        let turn = Arc::clone(&state.threads[me].turn);
        let state = turn.wait_while(state, |state| state.running != me).unwrap();
        let thread = &state.threads[me];
        if thread.start != state.machines[thread.machine].start {
            drop(state);
            resume_unwind(Box::new(Crashed));
        }
    }

    /// The machine's threads end as soon as they run again.
    pub fn crash(&self, machine: MachineId) {
        let mut state = self.state();
        let now = state.now;
        state.machines[machine].start += 1;
        state.machines[machine].wake(now);
        for thread in state
            .threads
            .iter_mut()
            .filter(|thread| thread.machine == machine)
        {
            thread.wake_at = now;
        }
    }

    pub fn sleep(&self, machine: MachineId, time: u64) {
        let mut state = self.state();
        let now = state.now;
        let machine = &mut state.machines[machine];
        let (before, until) = (machine.sleeps_until.max(now), now + time);
        machine.missed += until.saturating_sub(before);
        machine.sleeps_until = until.max(before);
    }

    pub fn wake(&self, machine: MachineId) {
        let mut state = self.state();
        let now = state.now;
        state.machines[machine].wake(now);
    }
}

impl Machine {
    fn wake(&mut self, now: u64) {
        self.missed -= self.sleeps_until.saturating_sub(now);
        self.sleeps_until = now;
    }
}

impl State {
    fn ready_at(&self, thread: &Thread) -> u64 {
        thread
            .wake_at
            .max(self.machines[thread.machine].sleeps_until)
    }

    fn choose(&mut self) {
        if self.pace != Pace::Exact {
            self.now += self.random.below(40);
        }
        if self.pace == Pace::Leaps && self.random.below(300) == 0 {
            self.now += self.random.below(2 * super::DAY);
        }
        let alive = |state: &State| {
            (0..state.threads.len())
                .filter(|id| !state.threads[*id].done)
                .collect::<Vec<_>>()
        };
        let all = alive(self);
        let Some(first) = all.iter().map(|id| self.ready_at(&self.threads[*id])).min() else {
            return;
        };
        self.now = self.now.max(first);
        let ready: Vec<_> = all
            .into_iter()
            .filter(|id| self.ready_at(&self.threads[*id]) <= self.now)
            .collect();
        self.running = ready[self.random.below(ready.len() as u64) as usize];
        self.threads[self.running].turn.notify_one();
    }
}
