//! mesync's commands against the server of the published `s3ec`, which knows less than a mesync
//! hub.

use crate::support::program;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::program::{Mesync, ran};
use crate::support::s3em::{KEY, S3em};

/// A machine that is logged in, and a directory in which its commands run.
struct User {
    m: Mesync,
    server: S3em,
}

impl User {
    fn new() -> User {
        let user = User {
            m: Mesync::new(),
            server: S3em::start(),
        };
        std::fs::create_dir(user.m.home().join("work")).unwrap();
        user.m
            .ok(["login", "--server", &user.server.url, "--api-key", KEY]);
        user
    }

    fn at(&self, name: &str) -> PathBuf {
        self.m.home().join("work").join(name)
    }

    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        std::fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        std::fs::write(self.at(name), bytes).unwrap();
        self.at(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.m.command(args);
        command.current_dir(self.m.home().join("work"));
        command
    }

    fn run(&self, args: &[&str]) -> program::Ran {
        ran(&mut self.command(args))
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.status, 0, "{args:?}: {ran:?}");
        ran.out.trim_end().to_string()
    }

    fn login_file(&self) -> PathBuf {
        self.m.home().join(".config/s3ec/config.toml")
    }

    /// Hidden files that were left behind.
    fn left_behind(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.at("")).unwrap();
        entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|n| n.starts_with(".mesync"))
            .collect()
    }
}

#[test]
fn a_login_is_saved_for_this_user_alone_as_s3ec_reads_it() {
    let user = User::new();
    let table: toml::Table = std::fs::read_to_string(user.login_file())
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(
        (table["server_url"].as_str(), table["api_key"].as_str()),
        (Some(user.server.url.as_str()), Some(KEY))
    );
    assert!(
        table["token"].as_str().unwrap().starts_with("token-")
            && table["expires_at"].as_str().unwrap().starts_with("2999")
    );
    let mode = || std::fs::metadata(user.login_file()).unwrap().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    user.run(&["login", "--api-key", "another-key"])
        .check(77, "refuses this machine: invalid api key");
    user.run(&["login"]).check(0, "");
    let unknown = Mesync::new();
    ran(unknown
        .command(["login", "--server", &user.server.url])
        .stdin(Stdio::null()))
    .check(2, "login needs a key: set MESYNC_API_KEY");
    unknown
        .feed(
            ["login", "--server", &user.server.url, "--api-key-file", "-"],
            KEY.as_bytes(),
        )
        .check(0, "");
    unknown
        .run(["login", "--server", "hub"])
        .check(2, "bad value for --server: must be a URL");

    // as s3ec leaves it, with fields that are not ours
    let text = std::fs::read_to_string(user.login_file()).unwrap() + "concurrency = 20\n";
    std::fs::write(user.login_file(), text).unwrap();
    std::fs::set_permissions(user.login_file(), std::fs::Permissions::from_mode(0o644)).unwrap();
    user.run(&["ls"]).check(0, "others could read the key");
    assert_eq!(mode(), 0o600);
    user.run(&["ls"]).check(0, "");
    user.ok(&["login"]);
    assert!(
        std::fs::read_to_string(user.login_file())
            .unwrap()
            .contains("concurrency = 20")
    );
}

#[test]
fn a_saved_token_is_used_and_a_refused_one_renewed() {
    let user = User::new();
    assert_eq!(user.server.logins(), 1);
    user.ok(&["ls"]);
    assert_eq!(
        user.server.logins(),
        1,
        "the token of the login file was not used"
    );
    user.server.forget_tokens();
    user.ok(&["ls"]);
    assert_eq!(user.server.logins(), 2);
    user.ok(&["ls"]);
    assert_eq!(user.server.logins(), 2, "the new token was not saved");
    std::fs::remove_file(user.login_file()).unwrap();
    let by_variables = |key: &str| {
        ran(user
            .command(&["ls"])
            .env("MESYNC_SERVER_URL", &user.server.url)
            .env("MESYNC_API_KEY", key))
    };
    by_variables(KEY).check(0, "");
    by_variables("a-wrong-key").check(77, "refuses this machine");
}

#[test]
fn files_are_uploaded_and_downloaded_with_mode_and_time() {
    let user = User::new();
    let big: Vec<u8> = (0..1_500_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    for (name, bytes) in [
        ("a b\\c.txt", &b"hello"[..]),
        ("é\"😀.bin", b"\0\xff"),
        ("big", &big),
    ] {
        let path = user.put(name, bytes);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789))
            .unwrap();
        let sent = user
            .run(&["upload", name, "--path", "/docs/", "--json"])
            .json();
        assert_eq!(
            (sent[0]["outcome"].as_str(), sent[0]["path"].as_str()),
            (Some("created"), Some(format!("docs/{name}").as_str()))
        );
        std::fs::remove_file(&path).unwrap();
        let id = sent[0]["id"].as_str().unwrap();
        let shown = user.run(&["download", id, "--json"]).json();
        assert_eq!(
            (shown[0]["file"].as_str(), shown[0]["size"].as_u64()),
            (Some(name), Some(bytes.len() as u64))
        );
        let meta = std::fs::metadata(&path).unwrap();
        assert_eq!(
            (
                std::fs::read(&path).unwrap(),
                meta.mode() & 0o7777,
                meta.mtime(),
                meta.mtime_nsec()
            ),
            (bytes.to_vec(), 0o640, 1_700_000_000, 123_456_789)
        );
        assert_eq!(
            ran(&mut user.command(&["download", &format!("docs/{name}"), "-o", "-"]))
                .out
                .as_bytes(),
            String::from_utf8_lossy(bytes).as_bytes()
        );
        let again = user
            .run(&["upload", name, "--path", "docs", "--json"])
            .json();
        assert_eq!(
            (again[0]["outcome"].as_str(), again[0]["id"].as_str()),
            (Some("unchanged"), Some(id))
        );
    }
    let before = user.server.received();
    user.ok(&["upload", "big", "--path", "docs"]);
    assert_eq!(
        user.server.received(),
        before,
        "what has not changed was sent again"
    );
    assert_eq!(user.server.files().len(), 3);
    assert_eq!(user.left_behind(), [""; 0]);
}

#[test]
fn entries_that_this_server_cannot_keep_are_named_one_by_one() {
    let user = User::new();
    user.put("tree/empty", b"");
    user.put("tree/long", &vec![7; 3_000_000]);
    user.put("tree/fine", b"x");
    user.put("tree/sub/fine", b"y");
    std::os::unix::fs::symlink("/etc/passwd", user.at("tree/link")).unwrap();
    let sent = user.run(&["upload", "-r", "tree", "--json"]);
    sent.check(77, "cannot upload tree/long");
    assert!(
        sent.err.contains("cannot upload tree/empty: ")
            && sent
                .err
                .contains("cannot upload tree/link: this server keeps regular"),
        "{sent:?}"
    );
    let outcomes: Vec<(String, String)> = sent
        .json()
        .iter()
        .map(|o| {
            (
                o["path"].as_str().unwrap().into(),
                o["outcome"].as_str().unwrap().into(),
            )
        })
        .collect();
    let wants = [
        ("tree/empty", "failed"),
        ("tree/fine", "created"),
        ("tree/link", "failed"),
        ("tree/long", "failed"),
        ("tree/sub/fine", "created"),
    ];
    assert_eq!(outcomes, wants.map(|(p, o)| (p.to_string(), o.to_string())));
    assert_eq!(
        user.server
            .files()
            .iter()
            .map(|(n, _)| n.as_str())
            .collect::<Vec<_>>(),
        ["tree/fine", "tree/sub/fine"]
    );
    user.run(&["upload", "tree"])
        .check(1, "it is a directory (-r uploads");
    user.run(&["upload", "none"])
        .check(74, "cannot read none: no such file");
    let feed = |bytes: &[u8]| {
        let mut child = user
            .command(&["upload", "-", "--name", "in"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), bytes);
        program::Ran::from(child.wait_with_output().unwrap())
    };
    feed(b"from a pipe").check(0, "");
    feed(&vec![1; 9 << 20]).check(1, "longer than this server takes at once");
    assert_eq!(user.ok(&["download", "in", "-o", "-"]), "from a pipe");
    user.run(&["upload", "-"])
        .check(2, "standard input needs --name");
    for command in ["versions", "restore"] {
        user.run(&[command, "in"]).check(1, "keeps no versions");
    }
}

#[test]
fn all_pages_are_listed_without_a_total() {
    let user = User::new();
    for n in 0..450 {
        user.server.put(
            if n % 2 == 0 { "even" } else { "odd" },
            &format!("f{n:03}"),
            b"x",
            &json!({}),
        );
    }
    assert_eq!(user.run(&["ls", "--json", "--all"]).json().len(), 450);
    assert_eq!(user.run(&["ls", "--json"]).json().len(), 50);
    assert_eq!(
        user.run(&["ls", "--json", "--limit", "300", "--offset", "100"])
            .json()
            .len(),
        300
    );
    assert_eq!(
        user.run(&["ls", "--json", "--path", "odd", "--all", "--search", "f0"])
            .json()
            .len(),
        50
    );
    let table = user.ok(&["ls", "--limit", "2"]);
    assert!(
        table.lines().count() == 3
            && table.contains("  odd/f449\n")
            && table.starts_with("      SIZE  MODIFIED"),
        "{table}"
    );
    // the oldest is on the last page
    assert!(user.ok(&["info", "even/f000"]).contains("even/f000"));
    user.run(&["info", "even/f001"])
        .check(1, "there is no file \"even/f001\" on hub");
    assert_eq!(user.run(&["rm", "-r", "even", "--json"]).json().len(), 225);
    assert_eq!(user.server.files().len(), 225);
    user.run(&["rm", "odd"])
        .check(1, "odd is a directory on the hub (rm -r");
    assert_eq!(
        user.ok(&["rm", "odd/f001", "odd/f003"]),
        "odd/f001 removed\nodd/f003 removed"
    );
    user.run(&["rm", "odd/f001", "odd/f005"])
        .check(1, "there is no file");
    assert_eq!(user.server.files().len(), 222);
}

#[test]
fn a_name_on_the_server_leads_nowhere_else() {
    let user = User::new();
    for (i, name) in [
        "../out",
        "/etc/out",
        "..",
        "a/../../out",
        ".mesync-0123456789abcdef.tmp",
    ]
    .iter()
    .enumerate()
    {
        user.server
            .put("", name, b"evil", &json!({ "mode": 0o104_777 }));
        let id = user.server.record(name)["id"].as_str().unwrap().to_string();
        user.run(&["download", &id])
            .check(77, "will not write a file of the name that the hub has");
        let to = format!("fine-{i}");
        user.ok(&["download", &id, "-o", &to]);
        assert_eq!(
            std::fs::metadata(user.at(&to)).unwrap().mode() & 0o7777,
            0o777,
            "no set-user-id"
        );
    }
    assert!(!user.m.home().join("out").exists());
    // a link of that name is replaced, not followed
    user.server.put("", "linked", b"new", &json!({}));
    let outside = user.m.put("outside", "old");
    std::os::unix::fs::symlink(&outside, user.at("linked")).unwrap();
    user.ok(&["download", "linked"]);
    assert_eq!(
        (
            std::fs::read(&outside).unwrap(),
            std::fs::read(user.at("linked")).unwrap()
        ),
        (b"old".to_vec(), b"new".to_vec())
    );
    assert!(!user.at("linked").is_symlink());
    std::fs::create_dir(user.at("there")).unwrap();
    user.server.put("", "there", b"x", &json!({}));
    user.run(&["download", "there"])
        .check(73, "a directory is there");
    user.ok(&["download", "there", "-o", "there"]);
    user.ok(&["download", "there", "-o", "new/dir/file"]);
    assert_eq!(std::fs::read(user.at("new/dir/file")).unwrap(), b"x");
}

#[test]
fn a_broken_download_is_taken_up_and_nothing_half_is_seen() {
    let user = User::new();
    let bytes: Vec<u8> = (0..1_000_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8)
        .collect();
    user.server.put("", "file", &bytes, &json!({}));
    user.put("file", b"the old one");
    user.server.cut_next_download(300_000);
    user.run(&["download", "file"]).check(0, "; retrying");
    assert_eq!(std::fs::read(user.at("file")).unwrap(), bytes);
    user.server.cut_next_download(300_000);
    assert_eq!(
        ran(&mut user.command(&["download", "file", "-o", "-"])).out,
        String::from_utf8_lossy(&bytes)
    );
    assert_eq!(user.left_behind(), [""; 0]);
}

#[test]
fn downloads_are_checked_against_their_hash() {
    let user = User::new();
    user.server.put("", "file", b"right", &json!({}));
    user.put("file", b"old");
    user.server.spoil("file");
    user.run(&["download", "file"])
        .check(65, "differ from the announced content");
    user.run(&["download", "file", "-o", "-"])
        .check(65, "differs from its record");
    assert_eq!(
        (
            std::fs::read(user.at("file")).unwrap(),
            user.left_behind().len()
        ),
        (b"old".to_vec(), 0)
    );
}

#[test]
fn events_are_shown_as_they_arrive() {
    let user = User::new();
    user.server.put("a", "before", b"x", &json!({}));
    let history = user
        .run(&["events", "--since", "2026-01-01T00:00:00Z", "--json"])
        .json();
    assert_eq!(
        (
            history.len(),
            &history[0]["type"],
            &history[0]["payload"]["name"]
        ),
        (1, &"file_created".into(), &"before".into())
    );
    let mut child = user
        .command(&["events", "-f"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let end = Instant::now() + Duration::from_secs(30);
    while user.server.listeners() == 0 {
        assert!(Instant::now() < end, "nobody listens");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    user.put("after", b"y");
    user.ok(&["upload", "after"]);
    user.ok(&["rm", "after"]);
    let (created, deleted) = (
        lines.next().unwrap().unwrap(),
        lines.next().unwrap().unwrap(),
    );
    assert!(
        created.contains("created") && created.ends_with("  after") && deleted.contains("deleted"),
        "{created}\n{deleted}"
    );
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_server_that_is_not_there_is_said_at_once() {
    let user = User::new();
    user.put("f", b"x");
    let began = Instant::now();
    for args in [
        &["ls"][..],
        &["upload", "f"],
        &["download", "f"],
        &["info", "f"],
        &["rm", "f"],
        &["events"],
    ] {
        let nobody = ran(user
            .command(args)
            .env("XDG_CONFIG_HOME", user.at("none"))
            .env("MESYNC_SERVER_URL", "http://127.0.0.1:1"));
        nobody.check(69, "cannot reach hub http://127.0.0.1:1: connection refused (is \"mesync serve\" running there?)");
    }
    assert!(began.elapsed() < Duration::from_secs(20));
}
