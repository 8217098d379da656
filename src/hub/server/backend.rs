//! tiny_http behind a private Unix socket, and the worker threads that call the routes: the only file that names it.
//!
//! It must never face a network (see `mod.rs`); everything that reaches it was written by `pool.rs`. It does not decide
//! how many connections there are.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tiny_http::{Header, Response};

use super::limits::{SHORT_BODY, ThreadGroup, ThreadGroupMember, WORKER_STACK};
use super::tickets::{PROBE, Tickets};
use super::{Responder, Serve};
use crate::error::{Error, Kind, Result};
use crate::hub::http::{Job, Reply};

/// Carries the number of the ticket both ways.
pub const TICKET: &str = "X-Mesync-Ticket";

/// Everything that a new server needs.
pub struct Plan {
    /// Mode 0700.
    pub dir: PathBuf,
    pub workers: usize,
    pub tickets: Arc<Tickets>,
    pub serve: Serve,
    /// Joined by each worker.
    pub crew: Arc<ThreadGroup>,
}

/// One tiny_http server with its workers, which end with it. Connections hold it, so it lives as long as they do.
pub struct Backend {
    listening: Arc<Listening>,
    path: PathBuf,
    workers: usize,
    retired: Arc<AtomicBool>,
    #[cfg(test)]
    pub listener: std::sync::Mutex<Option<UnixListener>>,
}

/// Dropped in this order: a server removes its socket, on the way through /proc that its name may take. Were that way
/// closed before, its number could be another directory's by then.
struct Listening {
    server: tiny_http::Server,
    _dir: File,
}

impl Backend {
    /// `number` tells servers of one process apart.
    pub fn start(plan: &Plan, number: u64) -> Result<Arc<Backend>> {
        let at = plan.dir.join(format!("hub-{number}.sock"));
        let failed = |e: &std::io::Error| Error::io(format!("listen on {}", at.display()), e);
        let dir = File::open(&plan.dir).map_err(|e| failed(&e))?;
        let path = short(&at, &dir);
        // left behind by a process that was killed; the directory is ours alone
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(|e| failed(&e))?;
        #[cfg(test)]
        let test_listener = std::sync::Mutex::new(listener.try_clone().ok());
        let refused = |why: String| {
            Error::new(
                Kind::CannotCreate,
                format!("cannot serve on {}: {why}", at.display()),
            )
        };
        // it panics when it can start no thread
        let server = catch_unwind(AssertUnwindSafe(|| {
            tiny_http::Server::from_listener(listener, None)
        }))
        .map_err(|_| refused("no thread can be started".into()))?
        .map_err(|e| refused(e.to_string()))?;
        let backend = Backend {
            listening: Arc::new(Listening { server, _dir: dir }),
            path,
            workers: plan.workers,
            retired: Arc::default(),
            #[cfg(test)]
            listener: test_listener,
        };
        for n in 0..plan.workers {
            let worker = Worker {
                listening: backend.listening.clone(),
                retired: backend.retired.clone(),
                tickets: plan.tickets.clone(),
                serve: plan.serve.clone(),
                _hand: plan.crew.join(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("worker-{n}"))
                .stack_size(WORKER_STACK);
            thread
                .spawn(move || worker.run())
                .map_err(|e| Error::io("start a worker thread", &e))?;
        }
        Ok(Arc::new(backend))
    }

    pub fn connect(&self) -> std::io::Result<UnixStream> {
        UnixStream::connect(&self.path)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.retired.store(true, Ordering::Release);
        for _ in 0..self.workers {
            self.listening.server.unblock();
        }
    }
}

/// The name of a Unix socket has at most 107 bytes; a longer one is reached through the descriptor of its directory.
fn short(path: &Path, dir: &File) -> PathBuf {
    match (path.as_os_str().len() <= 100, path.file_name()) {
        (false, Some(name)) => Path::new("/proc/self/fd")
            .join(dir.as_raw_fd().to_string())
            .join(name),
        _ => path.to_path_buf(),
    }
}

struct Worker {
    listening: Arc<Listening>,
    retired: Arc<AtomicBool>,
    tickets: Arc<Tickets>,
    serve: Serve,
    _hand: ThreadGroupMember,
}

impl Worker {
    fn run(self) {
        loop {
            match self.listening.server.recv() {
                Ok(request) => self.answer(request),
                Err(_) if self.retired.load(Ordering::Acquire) => return,
                // its accept loop is gone, which the opener finds out; the connections it has go on
                Err(e) => log::warn!("cannot accept connections to the workers: {e}"),
            }
        }
    }

    fn answer(&self, mut http: tiny_http::Request) {
        let number = http
            .headers()
            .iter()
            .find(|h| h.field.equiv(TICKET))
            .and_then(|h| h.value.as_str().parse().ok());
        let number: u64 = number.unwrap_or(u64::MAX);
        if number == PROBE {
            let _ = http.respond(response(number, Reply::empty(204)));
            return;
        }
        let mut body = Vec::with_capacity(http.body_length().unwrap_or(0).min(SHORT_BODY as usize));
        let whole = http.as_reader().take(SHORT_BODY).read_to_end(&mut body);
        let complete = whole.is_ok() && body.len() == http.body_length().unwrap_or(0);
        // half a body: the connection broke, and the request may still go through another one
        let request = if complete {
            self.tickets.take(number)
        } else {
            None
        };
        let Some(mut request) = request else {
            let _ = http.respond(response(
                number,
                Reply::error(500, "the request was withdrawn"),
            ));
            return;
        };
        request.body = body;
        let tickets = self.tickets.clone();
        let responder = Responder::new(move |reply| send(http, number, &tickets, reply));
        if catch_unwind(AssertUnwindSafe(|| (self.serve)(*request, responder))).is_err() {
            log::error!("route panicked; answered 500");
        }
    }
}

fn send(http: tiny_http::Request, number: u64, tickets: &Tickets, mut reply: Reply) {
    // more than fits the pool: the client's thread writes it
    if reply.job.is_none() && reply.body.len() > Reply::INLINE {
        reply.job = Some(Job::Bytes(std::mem::take(&mut reply.body)));
    }
    if let Some(job) = reply.job.take() {
        reply.body.clear();
        tickets.leave(number, job);
    }
    if let Err(e) = http.respond(response(number, reply)) {
        log::debug!("cannot send a response: {e}");
    }
}

fn response(number: u64, reply: Reply) -> Response<std::io::Cursor<Vec<u8>>> {
    let mut headers: Vec<Header> = Vec::with_capacity(reply.headers.len() + 2);
    headers.extend(Header::from_bytes(TICKET, number.to_string()));
    let own = reply
        .headers
        .iter()
        .map(|(name, value)| (*name, value.as_str()));
    for (name, value) in [("Content-Type", &*reply.content_type)]
        .into_iter()
        .chain(own)
    {
        match Header::from_bytes(name, value) {
            // a line break would begin a header of the client's own making
            Ok(header) if value.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) => {
                headers.push(header)
            }
            _ => log::error!("dropped a response header that is not plain ASCII header={name}"),
        }
    }
    let length = reply.body.len();
    let body = std::io::Cursor::new(reply.body);
    Response::new(reply.status.into(), headers, body, Some(length), None)
        .with_chunked_threshold(usize::MAX)
}
