//! The routes with a store and a running committer behind them, request by request.

mod commits;

use std::io::Cursor;
use std::time::Duration;

use crossbeam_channel::bounded;
use tempfile::TempDir;

use super::*;
use crate::config::Reserve;
use crate::hub::event_stream::listen;
use crate::hub::http::Pieces;
use crate::hub::store::ops::Limits;
use crate::hub::store::ops::files::FileLimits;
use crate::hub::subscribers::Subscribers;

const EPOCH: &str = "00000000-0000-0000-0000-00000000000e";
const ID: &str = "019359a0-0000-7000-8000-00000000000";
const INSTANCE: &str = "00000000-0000-0000-0000-000000000001";
const LIMITS: Limits = Limits {
    ttl: 600_000,
    queue_messages: 100,
    queue_bytes: 1 << 20,
    hosts: 10_000,
    space: 1 << 24,
    files: FILE_LIMITS,
};
const FILE_LIMITS: FileLimits = FileLimits {
    version_ttl: 86_400_000,
};

struct TestHub {
    routes: Messages,
    committer: Arc<Committer>,
    events: Arc<Subscribers>,
    commits: Option<std::thread::JoinHandle<()>>,
    dir: TempDir,
}

impl TestHub {
    fn new() -> TestHub {
        TestHub::in_dir(TempDir::new().unwrap())
    }

    fn in_dir(dir: TempDir) -> TestHub {
        let store = Store::open(
            dir.path(),
            1 << 20,
            clock::millis(clock::now()),
            EPOCH.parse().unwrap(),
        )
        .unwrap();
        let (store, events) = (Arc::new(store), Arc::new(Subscribers::default()));
        let (committer, work) = Committer::new(
            Arc::clone(&store),
            Box::new(crate::hub::commit_log::DiskLog::new(Arc::clone(&store))),
            Arc::clone(&events),
            LIMITS,
            Reserve::Bytes(0),
        );
        let silent = Arc::new(Vec::new);
        let routes = Messages::new(store, Arc::clone(&committer), silent, dir.path());
        let commits = Some(
            std::thread::Builder::new()
                .name("commit".into())
                .spawn(move || work.run())
                .unwrap(),
        );
        TestHub {
            routes,
            committer,
            events,
            commits,
            dir,
        }
    }

    fn ask(&self, caller: &Caller, what: &str, body: &str) -> (u16, String) {
        let (method, target) = what.split_once(' ').unwrap();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        // as the server reads it beforehand
        let short = if body.len() <= 64 * 1024 {
            body.as_bytes().to_vec()
        } else {
            Vec::new()
        };
        let request = Request {
            method: method.into(),
            path: path.into(),
            query: query.into(),
            headers: Vec::new(),
            peer: [127, 0, 0, 1].into(),
            caller: caller.clone(),
            body: short,
            length: body.len() as u64,
        };
        let (answer, answered) = bounded(1);
        if let Some((request, _)) = self
            .routes
            .handle(request, Box::new(move |reply| answer.send(reply).unwrap()))
        {
            return (0, format!("{} is not ours", request.path));
        }
        let reply = answered.recv_timeout(Duration::from_secs(10)).unwrap();
        let reply = match reply.job {
            Some(Job::Upload(read)) => read(&mut Cursor::new(body)),
            _ => reply,
        };
        let body = match reply.job {
            Some(Job::Bytes(body)) => body,
            Some(_) => b"a stream".to_vec(),
            None => reply.body,
        };
        (reply.status, String::from_utf8(body).unwrap())
    }

    fn check(&self, caller: &Caller, what: &str, body: &str, status: u16, wants: &str) {
        let got = self.ask(caller, what, body);
        assert!(
            got.0 == status && got.1.contains(wants),
            "{what} {body:.200}: {} {:.1000}",
            got.0,
            got.1
        );
    }
}

impl TestHub {
    /// Stops in order, and leaves the directory.
    fn stop(mut self) -> TempDir {
        std::mem::replace(&mut self.dir, TempDir::new().unwrap())
    }
}

impl Drop for TestHub {
    fn drop(&mut self) {
        self.events.stop();
        self.committer.stop();
        self.commits.take().unwrap().join().unwrap();
    }
}

fn host(name: &str) -> Caller {
    Caller::Host(name.into(), Arc::default())
}

fn message(n: usize, source: &str, target: &str, payload: &str) -> String {
    format!(
        r#"{{"id":"{ID}{n}","type":"x","source":"{source}","target":{target},"payload":{payload}}}"#
    )
}

fn pull(host: &str, rest: &str) -> String {
    format!("GET /api/messages?host={host}&instance={INSTANCE}{rest}")
}

#[test]
fn messages_travel() {
    let (hub, a, b) = (TestHub::new(), host("a"), host("b"));
    hub.check(
        &b,
        &pull("B", ""),
        "",
        200,
        &format!(r#"{{"epoch":"{EPOCH}","messages":[],"more":false}}"#),
    );
    let first = message(1, "a", "null", r#"{"big": 12345678901234567890.10}"#);
    hub.check(
        &a,
        "POST /api/messages",
        &first,
        200,
        &format!(r#"{{"results":[{{"id":"{ID}1","status":"queued"}}]}}"#),
    );
    hub.check(
        &a,
        "POST /api/messages",
        &first,
        200,
        r#""status":"duplicate""#,
    );
    let batch = format!(
        "[{},{},{{\"id\":\"{ID}3\"}},{}]",
        message(2, "a", "\"c\"", "1"),
        message(9, "b", "null", "1"),
        message(1, "a", "null", "2")
    );
    let (_, text) = hub.ask(&a, "POST /api/messages", &batch);
    let answer: PostAnswer = serde_json::from_str(&text).unwrap();
    let words: Vec<_> = answer
        .results
        .iter()
        .map(|r| format!("{:?} {:?} {:?}", r.status, r.error, r.warning))
        .collect();
    for (got, wants) in words.iter().zip([
        "has pulled yet",
        "this key belongs to",
        "no \\\"type\\\"",
        "another message",
    ]) {
        assert!(got.contains(wants), "{got}");
    }
    assert_eq!(answer.results.iter().filter_map(|r| r.id).count(), 4);
    let page = hub.ask(&b, &pull("b", ""), "").1;
    assert!(
        page.contains(r#""messages":[{"seq":1,"message":{"id""#)
            && page.contains(r#""payload":{"big": 12345678901234567890.10}"#),
        "{page}"
    );
    hub.check(
        &b,
        &pull("b", &format!("&after=1&epoch={EPOCH}&limit=5")),
        "",
        200,
        r#""messages":[],"more":false"#,
    );
    hub.check(
        &Caller::Admin,
        "POST /api/messages",
        "[]",
        200,
        r#"{"results":[]}"#,
    );
}

#[test]
fn long_requests_and_answers_are_jobs() {
    let hub = TestHub::new();
    let payload = format!("\"{}\"", "x".repeat(100_000));
    let batch = format!(
        "[{},{}]",
        message(1, "a", "\"b\"", &payload),
        message(2, "a", "\"b\"", &payload)
    );
    hub.check(
        &host("a"),
        "POST /api/messages",
        &batch,
        200,
        r#""status":"queued""#,
    );
    let page = hub.ask(&host("b"), &pull("b", ""), "").1;
    assert!(page.len() > 200_000 && page.ends_with(r#"],"more":false}"#));
    hub.check(
        &host("a"),
        "POST /api/messages",
        &"x".repeat(70_000),
        400,
        "must be a message",
    );
    hub.check(
        &host("a"),
        "POST /api/messages",
        &"x".repeat(wire::MAX_BATCH_BYTES + 1),
        413,
        "are the most",
    );
}

#[test]
fn forbidden_and_invalid_messages_are_refused() {
    let (hub, a, admin) = (TestHub::new(), host("a"), Caller::Admin);
    hub.check(&Caller::Nobody, "GET /api/hosts", "", 401, "key");
    hub.check(&a, &pull("b", ""), "", 403, "belongs to \\\"a\\\"");
    hub.check(&a, "GET /api/hosts/b", "", 403, "belongs to");
    hub.check(&a, "DELETE /api/hosts/a", "", 403, "may not administer");
    hub.check(
        &Caller::Anonymous,
        "PUT /api/hosts/a",
        "",
        403,
        "master key",
    );
    hub.check(
        &a,
        "POST /api/hosts/a/rebind",
        r#"{"instance":null}"#,
        403,
        "administer",
    );
    hub.check(
        &admin,
        "POST /api/hosts/a/rebind",
        r#"{"instance":7}"#,
        400,
        "UUID or null",
    );
    hub.check(
        &admin,
        "POST /api/hosts/a/rebind",
        r#"{"instance":null}"#,
        404,
        "no host is called",
    );
    hub.check(&admin, "GET /api/hosts/a", "", 404, "no host is called");
    hub.check(&admin, "GET /api/hosts/..", "", 400, "a host name is");
    hub.check(&admin, "GET /api/messages", "", 400, "whose messages");
    hub.check(&admin, "GET /api/messages?host=a&after=1", "", 400, "epoch");
    hub.check(
        &admin,
        "GET /api/messages?host=a&after=x",
        "",
        400,
        "must be a whole number",
    );
    hub.check(
        &admin,
        "GET /api/messages?host=a&instance=x",
        "",
        400,
        "must be a UUID",
    );
    hub.check(&admin, "POST /api/messages", "{", 400, "not JSON");
    hub.check(&admin, "DELETE /api/messages", "", 405, "DELETE");
    hub.check(&admin, "GET /api/files", "", 0, "is not ours");
    hub.check(&admin, "GET /api/hosts/a/b", "", 0, "is not ours");
}

#[test]
fn other_histories_and_other_machines_get_409() {
    let (hub, b) = (TestHub::new(), host("b"));
    hub.check(&b, &pull("b", ""), "", 200, "[]");
    hub.check(
        &b,
        &pull("b", &format!("&after=0&epoch={INSTANCE}")),
        "",
        409,
        &format!(r#""epoch":"{EPOCH}""#),
    );
    hub.check(
        &b,
        &pull("b", &format!("&after=7&epoch={EPOCH}")),
        "",
        409,
        "this one is",
    );
    let other = pull("b", "").replace(INSTANCE, EPOCH);
    hub.check(&b, &other, "", 409, "MESYNC_HOST_ID");
    assert!(
        !hub.ask(&b, &other, "").1.contains("epoch"),
        "the client tells the two by that word"
    );
    hub.check(
        &Caller::Admin,
        "POST /api/hosts/B/rebind",
        &format!(r#"{{"instance":"{EPOCH}"}}"#),
        200,
        r#""name":"b""#,
    );
    hub.check(&b, &other, "", 200, "[]");
    hub.check(&b, &pull("b", ""), "", 409, "mesync hosts rebind b");
}

#[test]
fn hosts_are_listed_put_and_deleted() {
    let (hub, admin) = (TestHub::new(), Caller::Admin);
    hub.check(
        &admin,
        "PUT /api/hosts/Web-1",
        "",
        200,
        r#"{"name":"web-1","first_seen":null,"last_seen":null,"queued":0,"#,
    );
    hub.check(&host("b"), &pull("b", ""), "", 200, "[]");
    hub.check(
        &host("a"),
        "POST /api/messages",
        &message(1, "a", "null", "1"),
        200,
        "queued",
    );
    let list: Vec<HostInfo> =
        serde_json::from_str(&hub.ask(&admin, "GET /api/hosts", "").1).unwrap();
    assert_eq!(
        list.iter()
            .map(|h| (h.name.as_str(), h.queued))
            .collect::<Vec<_>>(),
        [("b", 1), ("web-1", 1)]
    );
    let seen = clock::parse_rfc3339(list[0].last_seen.as_deref().unwrap()).unwrap();
    assert!(
        clock::now().duration_since(seen).unwrap_or_default() < Duration::from_secs(60)
            && list[0].oldest_queued_at.is_some()
    );
    let own: Vec<HostInfo> =
        serde_json::from_str(&hub.ask(&host("b"), "GET /api/hosts", "").1).unwrap();
    assert_eq!((own.len(), own[0].name.as_str()), (1, "b"));
    hub.check(
        &admin,
        "DELETE /api/hosts/web-1",
        "",
        200,
        r#"{"deleted":true}"#,
    );
    hub.check(&admin, "DELETE /api/hosts/web-1", "", 404, "no host");
}
