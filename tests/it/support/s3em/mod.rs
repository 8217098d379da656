//! The server of the published `s3ec`, as it was observed: 200 rows a page and newest first, no count, no revisions, no
//! ranges, no empty files, 2 MB a body, no keep-alives, and none of our routes. In memory, on a port of its own.

mod request;

use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use request::{Request, parts, read_request};

pub const KEY: &str = "the-key-of-s3em";
const PAGE: usize = 200;
const BODY: usize = 2 * 1024 * 1024;

pub struct S3em {
    pub url: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    files: Mutex<Vec<Stored>>,
    history: Mutex<Vec<Value>>,
    streams: Mutex<Vec<SyncSender<Value>>>,
    token: Mutex<String>,
    logins: AtomicU64,
    /// Bytes of all bodies that came.
    received: AtomicU64,
    /// The next download is cut off after so many bytes; 0: it is not.
    cut: AtomicU64,
    /// Somebody deletes this one as soon as a first page was given.
    deleted_meanwhile: Mutex<Option<String>>,
    listings: AtomicU64,
    /// Changes that are made, but whose responses are lost.
    unanswered: AtomicU64,
}

#[derive(Clone)]
struct Stored {
    record: Value,
    bytes: Vec<u8>,
    deleted: bool,
}

enum Answer {
    Json(u16, Value),
    Plain(u16),
    /// Content, and after how many bytes it breaks off.
    Content(Vec<u8>, String, usize),
    Events,
}

impl S3em {
    pub fn start() -> S3em {
        S3em::start_at("127.0.0.1:0")
    }

    pub fn start_at(address: &str) -> S3em {
        let listener = TcpListener::bind(address).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared::default());
        let s3em = S3em {
            url,
            shared: shared.clone(),
        };
        s3em.forget_tokens();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        s3em
    }

    /// As after a restart.
    pub fn forget_tokens(&self) {
        *self.shared.token.lock().unwrap() = format!("token-{}", uuid::Uuid::new_v4());
    }

    pub fn logins(&self) -> u64 {
        self.shared.logins.load(Relaxed)
    }

    pub fn received(&self) -> u64 {
        self.shared.received.load(Relaxed)
    }

    pub fn cut_next_download(&self, after: u64) {
        self.shared.cut.store(after, Relaxed);
    }

    /// Creates a file as if another client had uploaded it.
    pub fn put(&self, path: &str, name: &str, bytes: &[u8], metadata: &Value) {
        self.shared.put(path, name, bytes.to_vec(), metadata);
    }

    /// Names and contents of the files that are not deleted.
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        let files = self.shared.files.lock().unwrap();
        let full = |f: &Stored| {
            format!(
                "{}/{}",
                f.record["path"].as_str().unwrap(),
                f.record["name"].as_str().unwrap()
            )
        };
        let mut all: Vec<_> = files
            .iter()
            .filter(|f| !f.deleted)
            .map(|f| (full(f).trim_start_matches('/').to_string(), f.bytes.clone()))
            .collect();
        all.sort();
        all
    }

    pub fn record(&self, name: &str) -> Value {
        let files = self.shared.files.lock().unwrap();
        files
            .iter()
            .find(|f| !f.deleted && f.record["name"] == name)
            .map(|f| f.record.clone())
            .unwrap()
    }

    /// Other bytes under the old hash, as after a fault of its disk.
    pub fn spoil(&self, name: &str) {
        let mut files = self.shared.files.lock().unwrap();
        files
            .iter_mut()
            .find(|f| f.record["name"] == name)
            .unwrap()
            .bytes[0] ^= 1;
    }

    /// Deletes a file as if another client had.
    pub fn remove(&self, full: &str) {
        self.shared.remove(full);
    }

    /// Between the first page of the next listing and the second one.
    pub fn remove_during_listing(&self, full: &str) {
        *self.shared.deleted_meanwhile.lock().unwrap() = Some(full.to_string());
    }

    /// The line breaks before the answer to each of the next changes.
    pub fn lose_answers(&self, count: u64) {
        self.shared.unanswered.store(count, Relaxed);
    }

    pub fn answers_to_lose(&self) -> u64 {
        self.shared.unanswered.load(Relaxed)
    }

    /// Listings that were begun without looking for a name.
    pub fn listings(&self) -> u64 {
        self.shared.listings.load(Relaxed)
    }

    pub fn listeners(&self) -> usize {
        self.shared.streams.lock().unwrap().len()
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some(request) = read_request(&mut reader, &stream, &self.received) {
            let answer = match &request {
                Ok(request) => self.answer(request),
                Err(status) => Answer::Json(*status, json!({ "error": "Failed to read file" })),
            };
            let is_change = request.is_ok_and(|r| r.method == "PUT" || r.method == "DELETE");
            if is_change
                && self
                    .unanswered
                    .fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1))
                    .is_ok()
            {
                let _ = stream.shutdown(std::net::Shutdown::Both);
                return;
            }
            if self.write(&stream, answer).is_none() {
                return;
            }
        }
    }

    fn answer(&self, r: &Request) -> Answer {
        let parts: Vec<&str> = r.path.trim_start_matches('/').split('/').collect();
        let refused = |text: &str| Answer::Json(401, json!({ "error": text }));
        match (r.method.as_str(), parts.as_slice()) {
            ("GET", ["api", "health"]) => return Answer::Json(200, json!({ "status": "ok" })),
            ("POST", ["api", "auth", "login"]) => {
                let body: Value = serde_json::from_slice(&r.body).unwrap_or_default();
                if body["api_key"] != KEY {
                    return refused("invalid api key");
                }
                self.logins.fetch_add(1, Relaxed);
                let token = self.token.lock().unwrap().clone();
                return Answer::Json(
                    200,
                    json!({ "token": token, "expires_at": "2999-01-01T00:00:00+00:00" }),
                );
            }
            _ => {}
        }
        let bearer = format!("Bearer {}", self.token.lock().unwrap());
        if r.headers.get("authorization") != Some(&bearer)
            && r.headers.get("x-api-key").map(String::as_str) != Some(KEY)
        {
            return refused("invalid token");
        }
        match (r.method.as_str(), parts.as_slice()) {
            ("PUT", ["api", "files", "upload"]) => self.upload(r),
            ("GET", ["api", "files"]) => self.list(r),
            ("GET", ["api", "files", id]) => self.with(id, |f| Answer::Json(200, f.record.clone())),
            ("GET", ["api", "files", id, "download"]) => self.with(id, |f| {
                let cut = self.cut.swap(0, Relaxed) as usize;
                let kind = f.record["content_type"]
                    .as_str()
                    .unwrap_or_default()
                    .to_string();
                Answer::Content(
                    f.bytes.clone(),
                    kind,
                    if cut == 0 { usize::MAX } else { cut },
                )
            }),
            ("DELETE", ["api", "files", id]) => self.with(id, |f| {
                f.deleted = true;
                self.tell("deleted", &f.record);
                Answer::Json(200, json!({ "deleted": true }))
            }),
            ("GET", ["api", "events"]) => Answer::Events,
            ("GET", ["api", "events", "history"]) => {
                let offset = r
                    .query
                    .get("offset")
                    .and_then(|o| o.parse().ok())
                    .unwrap_or(0);
                let rows: Vec<Value> = self
                    .history
                    .lock()
                    .unwrap()
                    .iter()
                    .skip(offset)
                    .take(PAGE)
                    .cloned()
                    .collect();
                Answer::Json(200, rows.into())
            }
            _ => Answer::Plain(404),
        }
    }

    fn with(&self, id: &str, then: impl FnOnce(&mut Stored) -> Answer) -> Answer {
        let mut files = self.files.lock().unwrap();
        match files
            .iter_mut()
            .find(|f| !f.deleted && f.record["id"] == id)
        {
            Some(file) => then(file),
            None => Answer::Json(404, json!({ "error": "file not found" })),
        }
    }

    fn remove(&self, full: &str) {
        let name = |f: &Stored| {
            format!(
                "{}/{}",
                f.record["path"].as_str().unwrap(),
                f.record["name"].as_str().unwrap()
            )
        };
        let mut files = self.files.lock().unwrap();
        let file = files
            .iter_mut()
            .find(|f| !f.deleted && name(f).trim_start_matches('/') == full)
            .unwrap();
        file.deleted = true;
        self.tell("deleted", &file.record);
    }

    fn list(&self, r: &Request) -> Answer {
        let answer = self.page(r);
        let is_first =
            r.query.get("offset").is_none_or(|o| o == "0") && !r.query.contains_key("search");
        self.listings.fetch_add(u64::from(is_first), Relaxed);
        let meanwhile = if is_first {
            self.deleted_meanwhile.lock().unwrap().take()
        } else {
            None
        };
        if let Some(full) = meanwhile {
            self.remove(&full);
        }
        answer
    }

    fn page(&self, r: &Request) -> Answer {
        let number = |name: &str, default: usize| {
            r.query
                .get(name)
                .and_then(|n| n.parse().ok())
                .unwrap_or(default)
        };
        let (path, search) = (r.query.get("path"), r.query.get("search"));
        let files = self.files.lock().unwrap();
        let fits = |f: &&Stored| {
            let has = |field: &str| f.record[field].as_str().unwrap().to_string();
            !f.deleted
                && path.is_none_or(|p| has("path").starts_with(p.as_str()))
                && search.is_none_or(|s| has("name").contains(s.as_str()))
        };
        let rows: Vec<Value> = files
            .iter()
            .rev()
            .filter(fits)
            .map(|f| f.record.clone())
            .collect();
        let page: Vec<Value> = rows
            .into_iter()
            .skip(number("offset", 0))
            .take(number("limit", 50).min(PAGE))
            .collect();
        Answer::Json(200, page.into())
    }

    fn upload(&self, r: &Request) -> Answer {
        let kind = r.headers.get("content-type").cloned().unwrap_or_default();
        let Some(boundary) = kind.strip_prefix("multipart/form-data; boundary=") else {
            return Answer::Plain(415);
        };
        let parts = parts(&r.body, boundary);
        let (Some(file), Some(name)) = (parts.get("file"), parts.get("file_name")) else {
            return Answer::Json(422, json!({ "error": "missing field" }));
        };
        if file.is_empty() {
            return Answer::Json(400, json!({ "error": "empty file" }));
        }
        let metadata: Value = parts
            .get("metadata")
            .and_then(|m| serde_json::from_slice(m).ok())
            .unwrap_or_default();
        // without a path all of it is dropped
        let metadata = if metadata["path"].is_string() {
            metadata
        } else {
            json!({ "path": "" })
        };
        let (status, record) = self.put(
            metadata["path"].as_str().unwrap(),
            &String::from_utf8_lossy(name),
            file.clone(),
            &metadata,
        );
        if status == 204 {
            Answer::Plain(204)
        } else {
            Answer::Json(status, record)
        }
    }

    fn put(&self, path: &str, name: &str, bytes: Vec<u8>, metadata: &Value) -> (u16, Value) {
        let mut files = self.files.lock().unwrap();
        let at = files
            .iter()
            .position(|f| !f.deleted && f.record["path"] == path && f.record["name"] == name);
        let sum = mesync::internals::wire::files::Hash::of(&bytes).to_string();
        let id = at.map_or_else(
            || uuid::Uuid::new_v4().to_string().into(),
            |i| files[i].record["id"].clone(),
        );
        let record = json!({
            "id": id, "name": name, "path": path, "size": bytes.len(), "content_type": "application/octet-stream", "etag": null,
            "checksum_sha256": sum, "mode": metadata["mode"], "mtime": metadata["mtime"], "uid": null,
            "created_at": "2026-11-21T10:30:00.123456+00:00", "updated_at": "2026-11-21T10:30:00.123456+00:00", "deleted_at": null,
        });
        if at.is_some_and(|i| files[i].record == record) {
            return (204, Value::Null);
        }
        if let Some(i) = at {
            files.remove(i);
        }
        files.push(Stored {
            record: record.clone(),
            bytes,
            deleted: false,
        });
        self.tell(if at.is_some() { "updated" } else { "created" }, &record);
        (if at.is_some() { 200 } else { 201 }, record)
    }

    fn tell(&self, what: &str, record: &Value) {
        let payload = if what == "deleted" {
            json!({ "name": record["name"], "path": record["path"] })
        } else {
            record.clone()
        };
        let event = json!({ "type": format!("file_{what}"), "resource_id": record["id"], "payload": payload });
        self.streams
            .lock()
            .unwrap()
            .retain(|s| s.try_send(event.clone()).is_ok());
        self.history.lock().unwrap().push(json!({
            "id": uuid::Uuid::new_v4().to_string(), "event_type": what, "resource_type": "file", "resource_id": record["id"],
            "payload": payload, "created_at": "2026-11-21T10:30:00.123456+00:00",
        }));
    }

    /// `None`: the connection ends.
    fn write(&self, mut stream: &TcpStream, answer: Answer) -> Option<()> {
        match answer {
            Answer::Plain(204) => stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").ok(),
            Answer::Plain(status) => {
                stream
                    .write_all(
                        format!(
                            "HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                        )
                        .as_bytes(),
                    )
                    .ok()?;
                None
            }
            Answer::Json(status, value) => {
                let body = value.to_string();
                let head = format!(
                    "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                stream.write_all((head + &body).as_bytes()).ok()
            }
            Answer::Content(bytes, kind, cut) => {
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
                    bytes.len()
                );
                stream.write_all(head.as_bytes()).ok()?;
                stream.write_all(&bytes[..bytes.len().min(cut)]).ok()?;
                (cut >= bytes.len()).then_some(())
            }
            Answer::Events => {
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
                stream.write_all(head.as_bytes()).ok()?;
                let (sender, events) = sync_channel(16);
                self.streams.lock().unwrap().push(sender);
                for event in events {
                    stream
                        .write_all(format!("data: {event}\n\n").as_bytes())
                        .ok()?;
                }
                None
            }
        }
    }
}
