//! Tests of logins, keys and tokens.

use super::*;

const HERE: &str = "127.0.0.1";
const THERE: &str = "192.0.2.7";

struct Bench {
    dir: tempfile::TempDir,
    auth: Auth,
}

impl Bench {
    fn new(master: Option<&str>, allow_anonymous: bool) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let auth = Auth::open(&settings(dir.path(), master), None, allow_anonymous).unwrap();
        Bench { dir, auth }
    }

    fn local_key(&self) -> String {
        disk::read_secret(&local_key_file(self.dir.path())).unwrap()
    }

    /// `lines` are `name: value`, added to `Host: localhost:8080`. Returns the caller, or the status with the body.
    fn ask(&self, peer: &str, lines: &[&str]) -> String {
        let mut headers: Vec<(String, String)> = lines.iter().map(|line| split(line)).collect();
        if !headers.iter().any(|(name, _)| name == "host") {
            headers.push(split("host: localhost:8080"));
        }
        match self.auth.caller(&headers, peer.parse().unwrap()) {
            Ok(caller) => format!("{caller:?}"),
            Err(reply) => format!("{} {}", reply.status, String::from_utf8_lossy(&reply.body)),
        }
    }

    fn login(&self, peer: &str, body: &str) -> Reply {
        let headers = [split("host: localhost:8080")];
        let caller = match self.auth.visitor(&headers, peer.parse().unwrap()) {
            Ok(caller) => caller,
            Err(reply) => return reply,
        };
        let body = body.as_bytes().to_vec();
        let request = Request {
            method: "POST".into(),
            path: "/api/auth/login".into(),
            query: String::new(),
            headers: headers.into(),
            peer: peer.parse().unwrap(),
            caller,
            length: body.len() as u64,
            body,
        };
        self.auth.login(&request)
    }

    /// The header with a token for a key; empty if the login was refused.
    fn bearer(&self, peer: &str, key: &str) -> String {
        let reply = self.login(peer, &format!(r#"{{"api_key":"{key}"}}"#));
        let answer: Option<wire::LoginAnswer> = serde_json::from_slice(&reply.body).ok();
        answer
            .map(|a| format!("authorization: Bearer {}", a.token))
            .unwrap_or_default()
    }
}

fn settings(dir: &Path, master: Option<&str>) -> HubSettings {
    HubSettings {
        data_dir: dir.into(),
        master_key: master.map(|key| crate::config::Secret(key.into())),
        ..HubSettings::default()
    }
}

fn split(line: &str) -> (String, String) {
    line.split_once(": ")
        .map(|(name, value)| (name.into(), value.into()))
        .unwrap()
}

#[track_caller]
fn starts(got: &str, wants: &str) {
    assert!(got.starts_with(wants), "got {got}, not {wants}");
}

#[test]
fn without_keys_this_machine_needs_none_and_others_have_none() {
    let b = Bench::new(None, false);
    let local = format!("x-api-key: {}", b.local_key());
    for lines in [
        &[][..],
        &["x-api-key: wrong-key"],
        &[&local],
        &["authorization: Bearer x"],
    ] {
        starts(&b.ask(HERE, lines), "Admin");
        starts(&b.ask(THERE, lines), "403");
        starts(
            &b.ask(HERE, &[lines, &["x-forwarded-for: 192.0.2.1"]].concat()),
            "403",
        );
    }
    let words = b.ask(THERE, &[]);
    assert!(
        words.contains("mesync key add NAME") && words.contains("MESYNC_API_KEY"),
        "{words}"
    );
    assert_eq!(b.auth.mode(), AuthMode::Protected);
}

#[test]
fn with_a_key_everybody_needs_one() {
    let b = Bench::new(Some("master-key"), false);
    let key = keys::add_key(b.dir.path(), "web-1").unwrap();
    let local = b.local_key();
    assert_eq!(b.auth.mode(), AuthMode::Keys(2));
    for peer in [HERE, THERE] {
        starts(
            &b.ask(peer, &[]),
            "401 {\"error\":\"no key was sent: \\\"mesync start",
        );
        starts(&b.ask(peer, &["authorization: Basic eDp5"]), "401");
        starts(&b.ask(peer, &["x-api-key: wrong-key"]), "401");
        starts(&b.ask(peer, &["authorization: Bearer wrong"]), "401");
        starts(
            &b.ask(
                peer,
                &[
                    &format!("x-api-key: {key}"),
                    "host: hub",
                    "x-forwarded-for: 1",
                ],
            ),
            "Host(\"web-1\",",
        );
        starts(
            &b.ask(peer, &[&format!("authorization: bearer  {key}")]),
            "Host(\"web-1\",",
        );
        starts(&b.ask(peer, &["x-api-key: master-key"]), "Admin");
        let tokens = [
            (b.bearer(peer, &key), "Host(\"web-1\","),
            (b.bearer(peer, "master-key"), "Admin"),
        ];
        tokens
            .iter()
            .for_each(|(token, caller)| starts(&b.ask(peer, &[token]), caller));
    }
    starts(&b.ask(HERE, &[&format!("x-api-key: {local}")]), "Admin");
    starts(&b.ask(THERE, &[&format!("x-api-key: {local}")]), "401");
    let token = b.bearer(HERE, &local);
    starts(&b.ask(HERE, &[&token]), "Admin");
    starts(&b.ask(THERE, &[&token]), "401");
    assert_eq!(b.bearer(THERE, "wrong-key"), "");
}

#[test]
fn anybody_comes_in_where_that_was_asked_for_but_a_wrong_key_is_still_wrong() {
    let b = Bench::new(None, true);
    for lines in [&[][..], &["x-api-key: any-key"], &["host: hub"]] {
        starts(&b.ask(THERE, lines), "Anonymous");
    }
    let token = b.bearer(THERE, "any-key");
    starts(&b.ask(THERE, &[&token]), "Anonymous");
    starts(
        &b.ask(HERE, &[&format!("x-api-key: {}", b.local_key())]),
        "Admin",
    );
    let key = keys::add_key(b.dir.path(), "web-1").unwrap();
    starts(&b.ask(THERE, &[]), "Anonymous");
    starts(&b.ask(THERE, &[&format!("x-api-key: {key}")]), "Host");
    starts(&b.ask(THERE, &["x-api-key: any-key"]), "401");
    starts(&b.ask(THERE, &[&token]), "401");
}

#[test]
fn tokens_end_with_their_key() {
    let b = Bench::new(None, false);
    let open = b.bearer(HERE, "any-key");
    starts(&b.ask(HERE, &[&open]), "Admin");
    assert_eq!(b.login(THERE, r#"{"api_key":"any-key"}"#).status, 403);
    let key = keys::add_key(b.dir.path(), "web-1").unwrap();
    keys::add_key(b.dir.path(), "web-2").unwrap();
    starts(&b.ask(HERE, &[&open]), "401");
    let token = b.bearer(THERE, &key);
    starts(&b.ask(THERE, &[&token]), "Host(\"web-1\",");
    keys::remove_key(b.dir.path(), "web-1").unwrap();
    starts(&b.ask(THERE, &[&token]), "401");
    starts(&b.ask(THERE, &[&format!("x-api-key: {key}")]), "401");
    keys::add_key(b.dir.path(), "web-1").unwrap();
    starts(&b.ask(THERE, &[&token]), "401");
    // the token is valid after a restart, because the secrets are kept
    let again = Auth::open(&settings(b.dir.path(), None), None, false).unwrap();
    assert_eq!(again.secret, b.auth.secret);
    assert!(again.local == b.auth.local);
}

#[test]
fn logins_that_are_none_and_too_many_that_are_wrong() {
    let b = Bench::new(Some("master-key"), false);
    let key = keys::add_key(b.dir.path(), "web-1").unwrap();
    for body in ["", "{}", "[]", r#"{"api_key":1}"#, "\u{0}"] {
        assert_eq!(b.login(THERE, body).status, 400, "{body}");
    }
    let wrong = r#"{"api_key":"wrong-key"}"#;
    let statuses: Vec<u16> = (0..12).map(|_| b.login(THERE, wrong).status).collect();
    assert_eq!(statuses, [[401; 10].as_slice(), &[429; 2]].concat());
    let reply = b.login(THERE, wrong);
    assert!(
        reply
            .headers
            .iter()
            .any(|(n, v)| *n == "Retry-After" && (1..=60).contains(&v.parse().unwrap()))
    );
    // the master key is no longer compared, here or in a header; random keys are
    assert_eq!(b.login(THERE, r#"{"api_key":"master-key"}"#).status, 429);
    starts(&b.ask(THERE, &["x-api-key: master-key"]), "429");
    starts(&b.ask(THERE, &[&format!("x-api-key: {key}")]), "Host");
    starts(&b.ask("192.0.2.8", &["x-api-key: master-key"]), "Admin");
    assert_eq!(
        b.login("192.0.2.8", r#"{"api_key":"master-key"}"#).status,
        200
    );
}

#[test]
fn the_master_key_has_three_places() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        disk::write_durably(&dir.path().join(name), text.as_bytes(), 0o600).unwrap()
    };
    let read = |s: &HubSettings| master_key(s, Some(dir.path())).map_err(|e| e.to_string());
    let mut s = settings(dir.path(), None);
    assert_eq!(read(&s), Ok(None));
    write("master-key", "from-credential\n");
    assert_eq!(read(&s), Ok(Some("from-credential".into())));
    write("file", "from-the-file\n");
    s.master_key_file = Some(dir.path().join("file"));
    assert_eq!(read(&s), Ok(Some("from-the-file".into())));
    write("file", "short\n");
    assert!(read(&s).unwrap_err().contains("8 to 512"));
    s.master_key = Some(crate::config::Secret("from-environment".into()));
    assert_eq!(read(&s), Ok(Some("from-environment".into())));
}
