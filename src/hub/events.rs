//! Event streams: tells those who listen that something was committed for them.
//!
//! An event is a hint: the messages themselves are pulled, so one waiting wake-up is as good as many, and none is kept for
//! who does not listen.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::http::{Job, Pieces, Reply};
use super::store::ops::Wake;
use crate::config::limits;
use crate::wire::KEEP_ALIVE;

/// All open streams.
#[derive(Default)]
pub struct Events {
    streams: Mutex<Streams>,
}

#[derive(Default)]
struct Streams {
    last: u64,
    stopped: bool,
    /// One each: number, host, where its wake-ups go.
    open: Vec<(u64, Option<String>, Sender<()>)>,
}

struct Subscription {
    events: Arc<Events>,
    number: u64,
    woken: Receiver<()>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.events.lock().open.retain(|(number, ..)| *number != self.number);
    }
}

impl Events {
    /// The answer to `GET /api/events`: a stream that says when something for `host` was committed; without one it only
    /// keeps alive. 503 when there are too many, or the hub is stopping.
    pub fn stream(self: &Arc<Events>, host: Option<String>) -> Reply {
        let Some(subscription) = self.subscribe(host.clone()) else {
            return Reply::error(503, "too many event streams are open; ask again later").header("Retry-After", "5");
        };
        let job = Job::Stream(Box::new(move |out| run(&subscription, host.as_deref(), out)));
        Reply::job("text/event-stream", job)
    }

    /// Wakes every stream that one of these is for.
    pub fn wake(&self, wakes: &BTreeSet<Wake>) {
        if wakes.is_empty() {
            return;
        }
        for (_, host, poke) in &self.lock().open {
            let Some(host) = host else { continue };
            // broadcasts come last, and of two with different sources one is for this host
            let broadcasts = || wakes.range(Wake::AllBut(String::new())..).any(|wake| *wake != Wake::AllBut(host.clone()));
            if wakes.contains(&Wake::Host(host.clone())) || broadcasts() {
                // full: it is on its way already
                let _ = poke.try_send(());
            }
        }
    }

    /// Ends all streams, and opens no more.
    pub fn stop(&self) {
        let mut streams = self.lock();
        streams.stopped = true;
        streams.open.clear();
    }

    /// Streams that are open.
    pub fn open(&self) -> usize {
        self.lock().open.len()
    }

    fn subscribe(self: &Arc<Events>, host: Option<String>) -> Option<Subscription> {
        let mut streams = self.lock();
        if streams.stopped || streams.open.len() >= limits::STREAMS {
            return None;
        }
        let (poke, woken) = bounded(limits::POKE);
        streams.last += 1;
        let number = streams.last;
        streams.open.push((number, host, poke));
        Some(Subscription { events: Arc::clone(self), number, woken })
    }

    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lines end in LF, JSON is one line: s3ec reads no other framing.
fn run(subscription: &Subscription, host: Option<&str>, out: &mut dyn Pieces) -> io::Result<()> {
    // a host name needs no escaping in JSON
    let event = format!("data: {{\"type\":\"message_queued\",\"host\":\"{}\"}}\n\n", host.unwrap_or(""));
    out.send(b"retry: 2000\n: mesync\n\n")?;
    while !out.stopping() {
        match subscription.woken.recv_timeout(Duration::from_secs(KEEP_ALIVE)) {
            Ok(()) => out.send(event.as_bytes())?,
            Err(RecvTimeoutError::Timeout) => out.send(b": keep-alive\n\n")?,
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Heard(Sender<String>);

    impl Pieces for Heard {
        fn send(&mut self, piece: &[u8]) -> io::Result<()> {
            let _ = self.0.send(String::from_utf8_lossy(piece).into_owned());
            Ok(())
        }

        fn stopping(&self) -> bool {
            false
        }
    }

    #[test]
    fn who_is_concerned_wakes_once_and_all_end_at_the_stop() {
        let events = Arc::new(Events::default());
        let listen = |host: &str| {
            let (said, heard) = bounded(16);
            let Some(Job::Stream(job)) = events.stream(Some(host.into())).job else { panic!("no stream") };
            (std::thread::Builder::new().spawn(move || job(&mut Heard(said))).unwrap(), heard)
        };
        let (a, b) = (listen("a"), listen("b"));
        let next = |heard: &Receiver<String>| heard.recv_timeout(Duration::from_secs(10)).unwrap();
        assert!(next(&a.1).starts_with("retry: 2000\n") && next(&b.1).starts_with("retry: 2000\n"));
        events.wake(&BTreeSet::from([Wake::AllBut("a".into())]));
        assert_eq!(next(&b.1), "data: {\"type\":\"message_queued\",\"host\":\"b\"}\n\n");
        events.wake(&BTreeSet::from([Wake::Host("a".into()), Wake::AllBut("b".into())]));
        assert_eq!(next(&a.1), "data: {\"type\":\"message_queued\",\"host\":\"a\"}\n\n");
        events.stop();
        a.0.join().unwrap().unwrap();
        b.0.join().unwrap().unwrap();
        assert!(a.1.try_recv().is_err() && b.1.try_recv().is_err(), "nobody was woken for another");
        assert_eq!((events.open(), events.stream(None).status), (0, 503));
    }
}
