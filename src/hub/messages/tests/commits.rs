//! Requests that wait for the disk: those that are woken, refused and lost there.

use super::*;
use crate::hub::http::AfterPiece;

#[test]
fn a_disk_below_its_reserve_refuses_posts_and_nothing_else() {
    let (hub, a) = (TestHub::new(), host("a"));
    hub.check(
        &a,
        "POST /api/messages",
        &message(1, "a", "\"b\"", "1"),
        200,
        "queued",
    );
    hub.committer.set(LIMITS, Reserve::Bytes(u64::MAX));
    hub.check(
        &a,
        "POST /api/messages",
        &message(2, "a", "\"b\"", "1"),
        507,
        "disk is almost full",
    );
    assert!(hub.committer.disk_is_full());
    hub.check(&host("b"), &pull("b", ""), "", 200, r#"{"seq":1,"#);
    hub.check(
        &host("b"),
        &pull("b", &format!("&after=1&epoch={EPOCH}")),
        "",
        200,
        "[]",
    );
    hub.check(&Caller::Admin, "DELETE /api/hosts/b", "", 200, "deleted");
    hub.committer.set(LIMITS, Reserve::Percent(0.0));
    hub.check(
        &a,
        "POST /api/messages",
        &message(2, "a", "\"b\"", "1"),
        200,
        "queued",
    );
}

#[test]
fn a_failed_sync_is_final() {
    let (hub, a) = (TestHub::new(), host("a"));
    hub.check(
        &a,
        "POST /api/messages",
        &message(1, "a", "\"b\"", "1"),
        200,
        "queued",
    );
    assert_eq!(hub.committer.fatal(), None);
    hub.routes.store.break_syncs();
    hub.check(
        &a,
        "POST /api/messages",
        &message(2, "a", "\"b\"", "1"),
        503,
        "a sync failed",
    );
    let fatal = hub.committer.fatal();
    assert_eq!(fatal.map(|e| e.kind.exit_status()), Some(74));
    let syncs = hub.routes.store.written()[0];
    hub.check(
        &a,
        "POST /api/messages",
        &message(3, "a", "\"b\"", "1"),
        503,
        "a sync failed",
    );
    hub.check(&a, &pull("a", ""), "", 503, "failed");
    assert_eq!(
        hub.routes.store.written()[0],
        syncs,
        "something was written after that"
    );
}

#[test]
fn a_listener_is_woken_by_the_commit() {
    let hub = TestHub::new();
    let request = Request {
        method: "GET".into(),
        path: "/api/events".into(),
        query: "host=B".into(),
        headers: Vec::new(),
        peer: [127, 0, 0, 1].into(),
        caller: host("b"),
        body: Vec::new(),
        length: 0,
    };
    let mut reply = listen(&hub.routes.store, &hub.events, &request);
    let Some(Job::Stream(stream)) = reply.job.take() else {
        panic!("no stream: {}", reply.status)
    };
    let mut stream: Box<dyn Pieces> = stream;
    let (wake, woken) = bounded(1);
    stream.begin(Arc::new(move || {
        let _ = wake.try_send(());
    }));
    let mut hear = || {
        let mut all = Vec::new();
        while stream.write(&mut all).unwrap() == AfterPiece::More {}
        String::from_utf8(all).unwrap()
    };
    assert!(hear().starts_with("retry: 2000\n"));
    for n in 0..9 {
        assert_eq!(hear(), "");
        while woken.try_recv().is_ok() {}
        hub.check(
            &host("a"),
            "POST /api/messages",
            &message(n, "a", "\"b\"", "1"),
            200,
            "queued",
        );
        // before the sender has its answer
        assert_eq!(woken.try_recv(), Ok(()));
        assert_eq!(
            hear(),
            "data: {\"type\":\"message_queued\",\"host\":\"b\"}\n\n"
        );
    }
}

#[test]
fn stopping_commits_what_waits_and_the_acks() {
    let hub = TestHub::new();
    hub.check(&host("b"), &pull("b", ""), "", 200, "[]");
    hub.check(
        &host("a"),
        "POST /api/messages",
        &message(0, "a", "null", "1"),
        200,
        "queued",
    );
    hub.check(
        &host("b"),
        &pull("b", &format!("&after=1&epoch={EPOCH}")),
        "",
        200,
        "[]",
    );
    let (answer, answered) = bounded(64);
    for n in 1..9 {
        let answer = answer.clone();
        let batch =
            batch::read(message(n, "a", "null", "1").as_bytes(), None, &|_| Ok(())).unwrap();
        hub.committer.submit(
            Op::Post(batch.admitted),
            None,
            Box::new(move |outcome| answer.send(outcome).unwrap()),
        );
    }
    hub.committer.stop();
    hub.committer.submit(
        Op::Sweep,
        None,
        Box::new(|outcome| assert_eq!(outcome, Outcome::Busy)),
    );
    for _ in 1..9 {
        assert!(matches!(
            answered.recv_timeout(Duration::from_secs(10)).unwrap(),
            Outcome::Posted { .. }
        ));
    }
    let metrics = hub.committer.metrics();
    assert!(
        metrics.operations >= 10 && metrics.commits >= 1 && metrics.waiting == 0,
        "{metrics:?}"
    );
    let hub = TestHub::in_dir(hub.stop());
    hub.check(&host("b"), &pull("b", "&limit=1"), "", 200, r#"[{"seq":2,"#);
    hub.check(&Caller::Admin, "GET /api/hosts/b", "", 200, r#""queued":8"#);
}

#[test]
fn too_much_on_its_way_is_turned_away() {
    let hub = TestHub::new();
    let held = hub.committer.room(limits::COMMIT_BYTES - 10).unwrap();
    hub.check(
        &host("a"),
        "POST /api/messages",
        &message(1, "a", "null", "1"),
        503,
        "busy",
    );
    drop(held);
    hub.check(
        &host("a"),
        "POST /api/messages",
        &message(1, "a", "null", "1"),
        200,
        "queued",
    );
    assert!(
        hub.committer.room(limits::COMMIT_BYTES).is_some(),
        "all room was given back"
    );
}
