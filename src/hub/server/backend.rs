//! Runs tiny_http behind a private Unix socket, with the worker threads that call the routes. No other file names tiny_http.
//!
//! tiny_http must never face a network (see `mod.rs`): every byte that it reads was written by `pool.rs`. The number of
//! connections is decided there too.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
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

/// The header with the ticket's number, in requests and answers.
pub const TICKET: &str = "X-Mesync-Ticket";

/// Everything that a new server needs.
pub struct BackendConfig {
    /// Mode 0700.
    pub dir: PathBuf,
    pub workers: usize,
    pub tickets: Arc<Tickets>,
    pub serve: Serve,
    /// Each worker is a member until it ends.
    pub crew: Arc<ThreadGroup>,
}

/// One tiny_http server and its workers, which end with it. Each connection holds a reference, so the last one ends it.
pub struct Backend {
    listening: Arc<Listening>,
    path: PathBuf,
    workers: usize,
    retired: Arc<AtomicBool>,
    #[cfg(test)]
    pub listener: std::sync::Mutex<Option<UnixListener>>,
}

/// Fields are dropped in this order: the server removes its socket by a path that may lead through `/proc/self/fd/N`. If
/// the directory were closed first, N could already mean another directory.
struct Listening {
    server: tiny_http::Server,
    _dir: File,
}

impl Backend {
    /// `number` distinguishes the servers of one process.
    pub fn start(plan: &BackendConfig, number: u64) -> Result<Arc<Backend>> {
        let at = plan.dir.join(format!("hub-{number}.sock"));
        let failed = |e: &std::io::Error| Error::io(format!("listen on {}", at.display()), e);
        let dir = File::open(&plan.dir).map_err(|e| failed(&e))?;
        let path = short(&at, &dir);
        // a killed process leaves its socket; no other process uses this directory
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(|e| failed(&e))?;
        // private whatever the umask is, as all data of the hub
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&path, private).map_err(|e| failed(&e))?;
        #[cfg(test)]
        let test_listener = std::sync::Mutex::new(listener.try_clone().ok());
        let refused = |why: String| {
            Error::new(
                Kind::CannotCreate,
                format!("cannot serve on {}: {why}", at.display()),
            )
        };
        // tiny_http panics when it cannot start a thread
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

/// A path for the socket of at most 107 bytes, the system's limit: a longer one leads through the descriptor of its directory.
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
                // the accept loop has ended, which the opener detects; open connections keep working
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
        // the connection broke within the body; the request may be sent again over another one
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
    // too long for the pool: the client's thread writes it
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
            // a line break in a value would let the client inject a header
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
