//! Does this store keep conditional writes when several writers come at once? Some ignore the condition, and some check it
//! before they wait for each other.
//!
//! A probe shows that a store is wrong, never that it is right: mesync(7) lists what was tested.

use std::sync::Barrier;
use std::time::Duration;

use super::objects::{ObjectFault, ObjectStore, PutIf, PutOutcome, sure};
use crate::error::{Error, Kind, Result};

/// Writers at once, and rounds of them.
const WRITERS: usize = 8;
const ROUNDS: usize = 4;
/// Rounds in which no request came through are repeated, for about half a minute.
const MOST_RACES: usize = 30;
const RACE_PAUSE: Duration = Duration::from_secs(1);

/// Writes and removes a few objects below `probe/`.
pub fn check(objects: &dyn ObjectStore) -> Result<()> {
    let run = format!("probe/{:016x}", objects.random());
    let mut names = Vec::new();
    let mut checked = Ok(());
    let mut rounds = 0;
    while checked.is_ok() && rounds < ROUNDS {
        let name = format!("{run}/{}", names.len());
        names.push(name.clone());
        checked = match race(objects, &name) {
            Ok(true) => {
                rounds += 1;
                stays(objects, &name)
            }
            // a store that has just started answers 500
            Ok(false) if names.len() < MOST_RACES => {
                objects.wait(RACE_PAUSE);
                Ok(())
            }
            Ok(false) => Err(Error::new(
                Kind::Unreachable,
                "cannot test the bucket: none of the requests came through",
            )),
            Err(e) => Err(e),
        };
    }
    for name in &names {
        // one that stays is a few bytes
        let _ = objects.delete(name);
    }
    checked
}

/// Of writers at once, one must win, and its bytes must be there. `false`: no request came through.
fn race(objects: &dyn ObjectStore, name: &str) -> Result<bool> {
    let barrier = Barrier::new(WRITERS);
    let put = |writer: usize| {
        barrier.wait();
        objects.put(name, format!("writer {writer}\n").as_bytes(), PutIf::Absent)
    };
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| scope.spawn(move || put(writer)))
            .collect();
        writers.into_iter().map(|writer| writer.join()).collect()
    });
    let mut won = Vec::new();
    for (writer, outcome) in outcomes.into_iter().enumerate() {
        match outcome {
            Ok(Ok(response)) if response.date == 0 => {
                return Err(unfit("its responses have no Date"));
            }
            Ok(Ok(response)) => {
                won.extend(matches!(response.value, PutOutcome::Done).then_some(writer))
            }
            // a conflict: the writer does not know
            Ok(Err(ObjectFault::Unknown(_))) => {}
            Ok(Err(ObjectFault::Refused(e))) => return Err(e),
            Err(_) => {
                return Err(Error::new(
                    Kind::Failed,
                    "cannot test the bucket: a thread panicked",
                ));
            }
        }
    }
    let there = sure(objects, || objects.get(name))?;
    let there = there.map(|object| object.bytes).unwrap_or_default();
    match won[..] {
        [] => Ok(!there.is_empty()),
        [winner] if there == format!("writer {winner}\n").as_bytes() => Ok(true),
        _ => Err(unfit(&format!(
            "{} of {WRITERS} writers at once were told that they wrote {name}",
            won.len()
        ))),
    }
}

/// A later writer must not replace an object.
fn stays(objects: &dyn ObjectStore, name: &str) -> Result<()> {
    let before = sure(objects, || objects.get(name))?;
    let put = sure(objects, || objects.put(name, b"later\n", PutIf::Absent))?;
    let after = sure(objects, || objects.get(name))?;
    let bytes = |object: Option<super::objects::Object>| object.map(|object| object.bytes);
    if put == PutOutcome::Failed && bytes(before) == bytes(after) {
        Ok(())
    } else {
        Err(unfit(&format!(
            "it replaced {name} although If-None-Match: * was asked for"
        )))
    }
}

fn unfit(why: &str) -> Error {
    Error::new(
        Kind::Settings,
        format!(
            "will not use this store: it does not keep conditional writes (If-None-Match): {why}"
        ),
    )
    .hint("use a store that does; \"Several hubs\" in mesync(7) lists those that were tested")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use super::*;
    use crate::hub::bucket::objects::{ListedObject, Object, ObjectResult, Response};

    #[derive(Clone, Copy, PartialEq)]
    enum Flaw {
        None,
        /// The condition is ignored.
        Ignores,
        /// The condition is checked, and then all writers at once write.
        ChecksEarly,
        NoDate,
    }

    struct Memory {
        objects: Mutex<BTreeMap<String, Vec<u8>>>,
        flaw: Flaw,
        /// Writers that have checked and not written yet.
        checked: Mutex<usize>,
        all_checked: std::sync::Condvar,
    }

    impl Memory {
        fn answer<T>(&self, value: T) -> ObjectResult<T> {
            let date = if self.flaw == Flaw::NoDate { 0 } else { 1 };
            Ok(Response { value, date })
        }
    }

    impl ObjectStore for Memory {
        fn put(&self, name: &str, bytes: &[u8], only_if: PutIf) -> ObjectResult<PutOutcome> {
            let is_there = || self.objects.lock().unwrap().contains_key(name);
            let mut objects = match self.flaw {
                Flaw::ChecksEarly => {
                    if is_there() && only_if == PutIf::Absent {
                        return self.answer(PutOutcome::Failed);
                    }
                    let mut checked = self.checked.lock().unwrap();
                    *checked += 1;
                    self.all_checked.notify_all();
                    drop(
                        self.all_checked
                            .wait_while(checked, |checked| *checked < WRITERS)
                            .unwrap(),
                    );
                    self.objects.lock().unwrap()
                }
                _ => self.objects.lock().unwrap(),
            };
            let keeps = [Flaw::None, Flaw::NoDate].contains(&self.flaw);
            if keeps && only_if == PutIf::Absent && objects.contains_key(name) {
                return self.answer(PutOutcome::Failed);
            }
            objects.insert(name.into(), bytes.into());
            self.answer(PutOutcome::Done)
        }

        fn get(&self, name: &str) -> ObjectResult<Option<Object>> {
            let object = self.objects.lock().unwrap().get(name).cloned();
            self.answer(object.map(|bytes| Object { bytes, modified: 1 }))
        }

        fn delete(&self, name: &str) -> ObjectResult<()> {
            self.objects.lock().unwrap().remove(name);
            self.answer(())
        }

        fn list(&self, _: &str, _: &str) -> ObjectResult<Vec<ListedObject>> {
            self.answer(Vec::new())
        }

        fn monotonic(&self) -> u64 {
            0
        }

        fn wait(&self, _: Duration) {}

        fn random(&self) -> u64 {
            7
        }
    }

    #[test]
    fn a_store_without_conditions_is_refused_with_the_reason() {
        let checked = |flaw| {
            let (objects, checked) = (Mutex::default(), Mutex::default());
            let memory = Memory {
                objects,
                flaw,
                checked,
                all_checked: std::sync::Condvar::new(),
            };
            let outcome = check(&memory).map_err(|e| (e.kind, e.to_string()));
            assert!(
                memory.objects.lock().unwrap().is_empty(),
                "what was written is removed"
            );
            outcome
        };
        assert_eq!(checked(Flaw::None), Ok(()));
        for (flaw, why) in [
            (
                Flaw::Ignores,
                "8 of 8 writers at once were told that they wrote",
            ),
            (
                Flaw::ChecksEarly,
                "8 of 8 writers at once were told that they wrote",
            ),
            (Flaw::NoDate, "its responses have no Date"),
        ] {
            let (kind, text) = checked(flaw).unwrap_err();
            assert!(kind == Kind::Settings && text.contains(why), "{text}");
        }
    }
}
