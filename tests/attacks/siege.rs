//! A hub under attack: the real process, an attack, a friend with a key that must not notice it, and
//! the state afterwards.

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::group::Group;
use crate::support::http::{self, Conn, Got, message, request};
use crate::support::space::{Net, Place};
use crate::support::world::World;

/// What a client with a key waits at most.
pub const SECOND: Duration = Duration::from_secs(1);
/// How long a hub takes to forget an attack: it notices a connection that ended silently after a
/// minute, and closes an unused connection to its workers after another one.
const OBLIVION: Duration = Duration::from_secs(180);
/// The memory of a hub after an attack. The allowance is for the unoptimised dynamic program, whose
/// threads have large stacks and whose allocator (glibc's, with an arena for each worker) keeps
/// freed memory: 66 MB were measured.
fn most_kb() -> u64 {
    if std::env::var_os("MESYNC_TEST_BINARY").is_some() {
        20 * 1024
    } else {
        128 * 1024
    }
}
/// Connections of the hub to its workers, at most: each has a thread and three descriptors.
const POOL_MOST: u64 = 64;
/// Bytes of one of the long messages that wait for `greedy`.
const LONG: usize = 250 * 1000;

/// Hubs under siege measure time: one after the other.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

pub struct Arena {
    pub world: World,
    pub net: Option<Net>,
    _group: Option<Group>,
    /// Keys: of the friend, and of a host whose queue is full of long messages.
    pub friend: String,
    pub greedy: String,
    usual: Option<Usage>,
    /// Of all answers to the friend.
    slowest: Mutex<Duration>,
}

/// What the hub's process has of the machine.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    pub memory_kb: u64,
    pub peak_kb: u64,
    pub threads: u64,
    pub files: u64,
}

/// How far an attack is.
#[derive(Default)]
pub struct Stage {
    in_place: AtomicBool,
    over: AtomicBool,
}

impl Stage {
    /// The attack is running: continue until the friend has had enough responses.
    pub fn hold(&self) {
        self.in_place.store(true, SeqCst);
        while !self.is_over() {
            pause(10);
        }
    }

    pub fn stands(&self) {
        self.in_place.store(true, SeqCst);
    }

    pub fn is_over(&self) -> bool {
        self.over.load(SeqCst)
    }
}

/// The interval of a repeated action; nothing depends on its length.
pub fn pause(ms: u64) {
    let _ = crossbeam_channel::never::<()>().recv_timeout(Duration::from_millis(ms));
}

/// The connection has ended: the hub closed it after its response, or by a reset.
pub fn is_closed(conn: &mut Conn) -> bool {
    conn.buffer.is_empty()
        && match conn.more(Instant::now() + http::PATIENCE) {
            Ok(()) => false,
            Err(e) => !matches!(
                e.kind(),
                io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock
            ),
        }
}

impl Arena {
    /// A hub in a network of its own. The calling thread moves to the hub's machine.
    pub fn open(wrap: Vec<String>, group: Option<Group>) -> Arena {
        let mut world = World::new();
        let net = Net::lay(&["foes", "friend", "gone"]);
        if let Some(net) = &net {
            net.inside(world.port).enter();
            world.listen = "0.0.0.0";
        }
        world.wrap = wrap;
        world.start_hub();
        let add = |name: &str| {
            let out = world
                .hub_command()
                .args(["key", "add", name])
                .output()
                .unwrap();
            assert!(out.status.success(), "{out:?}");
            format!(
                "X-API-Key: {}\r\n",
                String::from_utf8(out.stdout).unwrap().trim()
            )
        };
        let (friend, greedy) = (add("friend"), add("greedy"));
        let mut arena = Arena {
            world,
            net,
            _group: group,
            friend,
            greedy,
            usual: None,
            slowest: Mutex::default(),
        };
        // whatever is made at the first use is there now
        let stage = Stage::default();
        stage.stands();
        arena.befriend(&stage, false).unwrap();
        arena.befriend(&stage, cfg!(feature = "tls")).unwrap();
        arena.settle("the start", true);
        arena.usual = Some(arena.usage());
        arena
    }

    pub fn place(&self, name: &str) -> Place {
        self.net
            .as_ref()
            .map_or(Place::here(self.world.port), |net| {
                net.place(name, self.world.port)
            })
    }

    /// Where attacks come from: outside, where they count by address, and the hub's own machine.
    pub fn sides(&self) -> Vec<Place> {
        let port = self.world.port;
        self.net.as_ref().map_or(vec![Place::here(port)], |net| {
            vec![net.place("foes", port), net.inside(port)]
        })
    }

    pub fn usage(&self) -> Usage {
        let proc = format!("/proc/{}", self.world.hub_pid());
        let status = std::fs::read_to_string(format!("{proc}/status")).unwrap();
        let number = |name: &str| {
            let line = status
                .lines()
                .find(|line| line.starts_with(name))
                .unwrap_or_else(|| panic!("the hub has ended: {status}"));
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let files = std::fs::read_dir(format!("{proc}/fd")).unwrap().count() as u64;
        Usage {
            memory_kb: number("VmRSS:"),
            peak_kb: number("VmHWM:"),
            threads: number("Threads:"),
            files,
        }
    }

    /// Waits until the hub has little memory and no connection. `exactly`: and no more of anything
    /// than at the start. Before that, it may have more connections to its workers, which it closes
    /// after a minute without use.
    fn settle(&self, after: &str, exactly: bool) {
        let (begun, mut before) = (Instant::now(), None);
        loop {
            let now = self.usage();
            let calm = match (self.usual, before) {
                (Some(usual), _) => {
                    let pool = if exactly { 0 } else { POOL_MOST };
                    now.threads <= usual.threads + pool
                        && now.files <= usual.files + 3 * pool
                        && now.memory_kb <= most_kb()
                        && (exactly || self.is_left_alone())
                }
                // the first time: no connection is open any more
                (None, before) => {
                    before.is_some_and(|b: Usage| (b.threads, b.files) == (now.threads, now.files))
                }
            };
            if calm {
                return println!("    {now} after {:.1} s", begun.elapsed().as_secs_f32());
            }
            let words = || {
                format!(
                    "after {after}: {now}, usual is {:?}\n{}",
                    self.usual,
                    self.world.logs()
                )
            };
            assert!(begun.elapsed() < OBLIVION, "{}", words());
            before = Some(now);
            pause(if self.usual.is_some() { 100 } else { 1000 });
        }
    }

    /// Runs an attack from a place. During it a client with a key must be answered in time; afterwards nothing is left.
    pub fn attack(&self, name: &str, from: &Place, attack: impl FnOnce(&Place, &Stage) + Send) {
        let wire = if from.is_encrypted() {
            "with TLS"
        } else {
            "plain"
        };
        println!("{name}, from {}, {wire}", from.hub.ip());
        let stage = Stage::default();
        let friend = std::thread::scope(|scope| {
            let foe = std::thread::Builder::new()
                .name("foe".into())
                .spawn_scoped(scope, || {
                    // also when the attack fails, the friend must not wait for it
                    let _end = OnEnd(&stage);
                    from.enter();
                    attack(from, &stage);
                });
            let friend = self.befriend(&stage, from.is_encrypted());
            foe.unwrap().join().unwrap();
            friend
        });
        let friend =
            friend.unwrap_or_else(|why| panic!("during {name}: {why}\n{}", self.world.logs()));
        println!("    {friend}; {}", self.usage());
        self.settle(name, false);
        let mut slowest = self.slowest.lock().unwrap();
        *slowest = friend.slowest.max(*slowest);
        assert!(
            !self.world.logs().contains("panicked"),
            "{}",
            self.world.logs()
        );
    }

    /// Makes requests until the attack runs, and some more after that.
    fn befriend(&self, stage: &Stage, is_encrypted: bool) -> Result<Friend, String> {
        let place = self.place("friend").encrypted(is_encrypted);
        let result = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .name("friend".into())
                .spawn_scoped(scope, || {
                    place.enter();
                    let mut friend = Friend {
                        place: place.clone(),
                        key: self.friend.clone(),
                        kept: None,
                        slowest: Duration::ZERO,
                        answers: 0,
                        again: 0,
                    };
                    let mut rounds = 0;
                    while rounds < 25 {
                        rounds += u32::from(stage.in_place.load(SeqCst));
                        friend.round()?;
                        pause(10);
                    }
                    friend.kept = None;
                    Ok(friend)
                });
            thread.unwrap().join().unwrap()
        });
        stage.over.store(true, SeqCst);
        result
    }

    /// Fills a page of `greedy`: 4 MB that the hub must keep while no client reads them.
    pub fn fill_queue(&self, messages: usize) {
        let place = self.place("friend");
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, || {
                place.enter();
                let mut conn = Conn::new(place.connect(0).unwrap());
                for _ in 0..messages {
                    let body = message("friend", "greedy", &"x".repeat(LONG));
                    let got = conn
                        .ask(
                            &request("POST", "/api/messages", &self.friend, &body),
                            http::PATIENCE,
                        )
                        .unwrap();
                    assert!(got.status == 200 && got.body.contains("queued"), "{got:?}");
                }
            });
            thread.unwrap().join().unwrap();
        });
    }

    /// Only the asking connection is open, and no event stream.
    fn is_left_alone(&self) -> bool {
        let mut conn = Conn::new(Place::here(self.world.port).connect(0).unwrap());
        let Ok(got) = conn.ask(
            &request("GET", "/metrics", &self.friend, ""),
            http::PATIENCE,
        ) else {
            return false;
        };
        ["mesync_connections_open 1", "mesync_event_streams 0"]
            .iter()
            .all(|line| got.body.lines().any(|l| l == *line))
    }

    /// All is as it was at the start.
    pub fn end(mut self) {
        self.settle("all", true);
        assert!(
            !self.world.logs().contains("panicked"),
            "{}",
            self.world.logs()
        );
        println!("slowest answer of all: {:?}", self.slowest.lock().unwrap());
        assert_eq!(self.world.stop_hub(), Some(0), "{}", self.world.logs());
    }
}

struct OnEnd<'a>(&'a Stage);

impl Drop for OnEnd<'_> {
    fn drop(&mut self) {
        self.0.stands();
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Usage {
            memory_kb,
            peak_kb,
            threads,
            files,
        } = self;
        write!(
            f,
            "{memory_kb} kB (at most {peak_kb}), {threads} threads, {files} descriptors"
        )
    }
}

/// A client with a key, on a connection that it keeps and on new ones.
struct Friend {
    place: Place,
    key: String,
    kept: Option<Conn>,
    slowest: Duration,
    answers: u32,
    again: u32,
}

impl fmt::Display for Friend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} answers, slowest {:?}, {} asked for again",
            self.answers, self.slowest, self.again
        )
    }
}

impl Friend {
    fn round(&mut self) -> Result<(), String> {
        let post = || {
            request(
                "POST",
                "/api/messages",
                &self.key,
                &message("friend", "greedy", "short"),
            )
        };
        let pull = request("GET", "/api/messages?host=friend", &self.key, "");
        let (first, second) = (post(), post());
        self.timely("GET on the connection that is kept", |friend| {
            friend.on_kept(&pull)
        })?;
        self.timely("POST on the connection that is kept", |friend| {
            friend.on_kept(&first)
        })?;
        self.timely("GET on a new connection", |friend| friend.on_new(&pull))?;
        self.timely("POST on a new connection", |friend| friend.on_new(&second))
    }

    /// Each response must arrive within a second, in which the friend may send several requests: a
    /// hub that sheds load may refuse one. A late response is requested once more, because on a
    /// busy machine the disk or the scheduler may delay a single one; an overloaded hub fails twice
    /// in a row.
    fn timely(
        &mut self,
        what: &str,
        mut ask: impl FnMut(&mut Friend) -> io::Result<Got>,
    ) -> Result<(), String> {
        let (begun, mut failed) = (Instant::now(), Vec::new());
        while failed.len() < 2 || begun.elapsed() < SECOND {
            let asked = Instant::now();
            let got = ask(self);
            let took = asked.elapsed();
            match got {
                Ok(got) if got.status == 200 && took <= SECOND => {
                    self.slowest = self.slowest.max(took);
                    self.answers += 1;
                    return Ok(());
                }
                got => {
                    self.kept = None;
                    self.again += 1;
                    failed.push(format!(
                        "{took:?} {:?}",
                        got.map(|got| (got.status, got.body))
                    ));
                    println!("    asked for again: {what}: {}", failed[failed.len() - 1]);
                    pause(20);
                }
            }
        }
        Err(format!("{what}: {failed:?}"))
    }

    fn on_kept(&mut self, text: &str) -> io::Result<Got> {
        if self.kept.is_none() {
            self.kept = Some(self.connect()?);
        }
        self.kept.as_mut().unwrap().ask(text, SECOND)
    }

    fn on_new(&mut self, text: &str) -> io::Result<Got> {
        self.connect()?.ask(text, SECOND)
    }

    fn connect(&self) -> io::Result<Conn> {
        let stream = TcpStream::connect_timeout(&self.place.hub, SECOND)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SECOND))?;
        Ok(Conn::new(self.place.wire(stream)))
    }
}
