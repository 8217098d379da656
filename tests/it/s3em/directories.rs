//! Directories in sync through the server of the published `s3ec`, which has no revisions, no conditions and no feed.

use crate::support::program;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use crate::support::program::{Mesync, Ran};
use crate::support::s3em::{KEY, S3em};

/// A machine with a directory, logged in at the server.
struct Machine {
    m: Mesync,
    daemon: Option<Child>,
}

impl Machine {
    fn new(name: &str, server: &S3em) -> Machine {
        let m = Mesync::named(name);
        fs::create_dir(m.home().join("dir")).unwrap();
        m.ok(["login", "--server", &server.url, "--api-key", KEY]);
        Machine { m, daemon: None }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.m.home().join("dir").join(name)
    }

    fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        fs::write(self.at(name), content).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::create_dir_all(self.at(to).parent().unwrap()).unwrap();
        fs::rename(self.at(from), self.at(to)).unwrap();
    }

    fn pass(&self, more: &[&str]) -> Ran {
        let dir = self.at("");
        self.m
            .run([&["sync", "-w", dir.to_str().unwrap()], more].concat())
    }

    #[track_caller]
    fn sync(&self) -> String {
        let ran = self.pass(&[]);
        assert_eq!(ran.status, 0, "{ran:?}");
        ran.out
    }

    fn start(&mut self) {
        self.start_as("daemon", &[]);
    }

    fn start_as(&mut self, command: &str, env: &[(&str, &str)]) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.m.home().join("log"))
            .unwrap();
        let mut command = self
            .m
            .command([command, "-v", "-w", self.at("").to_str().unwrap()]);
        command.envs(env.iter().copied());
        self.daemon = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
    }

    fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.m.home().join("log")).unwrap_or_default()
    }

    /// Files and their contents, without our own.
    fn tree(&self) -> BTreeMap<String, String> {
        fn walk(root: &Path, dir: &Path, out: &mut BTreeMap<String, String>) {
            for entry in fs::read_dir(dir).unwrap().flatten() {
                let path = entry.path();
                let name = path
                    .strip_prefix(root)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_string();
                match entry.file_type() {
                    _ if name.split('/').any(|part| part.starts_with(".mesync")) => {}
                    Ok(kind) if kind.is_dir() => walk(root, &path, out),
                    _ => drop(out.insert(
                        name,
                        String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned(),
                    )),
                }
            }
        }
        let mut out = BTreeMap::new();
        walk(&self.at(""), &self.at(""), &mut out);
        out
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}

fn two() -> (S3em, Machine, Machine) {
    let server = S3em::start();
    let (one, two) = (Machine::new("one", &server), Machine::new("two", &server));
    (server, one, two)
}

fn of(wants: &[(&str, &str)]) -> BTreeMap<String, String> {
    wants
        .iter()
        .map(|(name, content)| (name.to_string(), content.to_string()))
        .collect()
}

fn stored(server: &S3em) -> BTreeMap<String, String> {
    server
        .files()
        .into_iter()
        .map(|(name, bytes)| (name, String::from_utf8_lossy(&bytes).into_owned()))
        .collect()
}

#[track_caller]
fn wait_for(what: &str, machines: &[&Machine], mut is_true: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_true() {
        let logs = || {
            machines
                .iter()
                .map(|m| format!("{:?}\n{}", m.tree(), m.log()))
                .collect::<String>()
        };
        assert!(Instant::now() < end, "waited in vain: {what}\n{}", logs());
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn what_one_changes_the_other_gets_pass_by_pass() {
    let (server, one, two) = two();
    one.put("a", "first");
    one.put("d/b", "second");
    one.put("d/e/c\\d é", "third");
    let first = one.pass(&[]);
    first.check(0, "is no mesync hub");
    assert!(
        first.out.contains("3 sent") && !first.out.contains("received"),
        "{first:?}"
    );
    two.sync();
    let wants = of(&[("a", "first"), ("d/b", "second"), ("d/e/c\\d é", "third")]);
    assert_eq!((two.tree(), stored(&server)), (wants.clone(), wants));
    for machine in [&one, &two] {
        assert!(machine.sync().contains("in sync: nothing to do"));
    }

    two.put("a", "first, edited");
    fs::remove_file(two.at("d/b")).unwrap();
    two.rename("d/e/c\\d é", "new/name");
    let said = two.sync();
    assert!(
        said.contains("2 sent") && said.contains("1 deleted"),
        "{said}"
    );
    let said = one.sync();
    assert!(
        said.contains("2 received") && said.contains("2 moved to the trash"),
        "{said}"
    );
    let wants = of(&[("a", "first, edited"), ("new/name", "third")]);
    assert_eq!(
        (one.tree(), two.tree(), stored(&server)),
        (wants.clone(), wants.clone(), wants)
    );
    assert!(!one.at("d").exists(), "what was emptied is gone");

    // deleted and made again with the same bytes
    fs::remove_file(one.at("a")).unwrap();
    one.sync();
    two.sync();
    assert!(!two.at("a").exists());
    one.put("a", "first, edited");
    one.sync();
    two.sync();
    assert_eq!(two.tree()["a"], "first, edited");

    // a mode alone travels
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(one.at("a"), fs::Permissions::from_mode(0o750)).unwrap();
    one.sync();
    two.sync();
    assert_eq!(
        fs::metadata(two.at("a")).unwrap().permissions().mode() & 0o777,
        0o750
    );
    assert!(one.sync().contains("nothing to do") && two.sync().contains("nothing to do"));
}

#[test]
fn two_edits_are_both_kept_on_both() {
    let (server, one, two) = two();
    one.put("f", "base");
    one.sync();
    two.sync();
    one.put("f", "by one");
    two.put("f", "by two, longer");
    one.put("new", "by one");
    two.put("new", "by two, longer");
    one.sync();
    let said = two.sync();
    assert!(said.contains("2 set aside"), "{said}");
    one.sync();
    let tree = one.tree();
    assert_eq!(
        (&tree, tree.len(), &tree["f"], &tree["new"]),
        (&two.tree(), 4, &"by one".into(), &"by one".into())
    );
    let copies: Vec<&String> = tree
        .iter()
        .filter(|(name, _)| name.contains("sync-conflict"))
        .map(|(_, content)| content)
        .collect();
    assert_eq!(copies, ["by two, longer"; 2]);
    assert_eq!(stored(&server), tree);

    // an edit beats a delete
    one.put("f", "edited again");
    one.sync();
    fs::remove_file(two.at("f")).unwrap();
    two.sync();
    assert_eq!(two.tree()["f"], "edited again");
}

#[test]
fn a_stale_directory_overwrites_nothing() {
    let (server, one, two) = two();
    for (machine, content, age) in [
        (&one, "old", 1_600_000_000),
        (&two, "new, and longer", 1_700_000_000),
    ] {
        machine.put("f", content);
        machine.put("same", "same");
        let file = fs::File::options()
            .write(true)
            .open(machine.at("f"))
            .unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(age))
            .unwrap();
    }
    two.sync();
    let received = server.received();
    let said = one.sync();
    assert!(
        said.contains("1 set aside") && server.received() - received < 2000,
        "{said}"
    );
    two.sync();
    assert_eq!(
        (one.tree()["f"].as_str(), one.tree().len()),
        ("new, and longer", 3)
    );
    assert_eq!(one.tree(), two.tree());
    assert!(
        stored(&server).values().any(|content| content == "old"),
        "what was old is kept as well"
    );

    // its state is lost: everything is compared, and nothing changes
    fs::remove_dir_all(one.m.base()).unwrap();
    let before = stored(&server);
    one.pass(&[]);
    assert_eq!((stored(&server), one.tree()), (before, two.tree()));
}

#[test]
fn many_deletes_on_the_server_are_held() {
    let (server, one, two) = two();
    for n in 0..200 {
        one.put(&format!("f{n}"), format!("content {n}"));
    }
    one.sync();
    two.sync();
    // renamed by another machine: not deleted
    for n in 0..150 {
        one.rename(&format!("f{n}"), &format!("d/f{n}"));
    }
    one.sync();
    let said = two.sync();
    assert!(
        said.contains("150 received") && said.contains("150 moved to the trash"),
        "{said}"
    );
    assert_eq!((one.tree() == two.tree(), two.tree().len()), (true, 200));

    for (name, _) in server.files() {
        server.remove(&name);
    }
    let held = two.pass(&["--json"]);
    assert_eq!(
        (held.json()[0]["held_deletes"].as_u64(), two.tree().len()),
        (Some(200), 200),
        "{held:?}"
    );
    two.m.ok(["approve", two.at("").to_str().unwrap()]);
    two.sync();
    assert_eq!(two.tree().len(), 0);
}

#[test]
fn every_page_is_read_and_what_a_page_has_missed_is_asked_for() {
    let (server, one, _) = two();
    for n in 0..500 {
        server.put(
            &format!("d{}", n % 7),
            &format!("f{n:03}"),
            format!("content {n}").as_bytes(),
            &json!({}),
        );
    }
    one.sync();
    assert_eq!((one.tree(), one.tree().len()), (stored(&server), 500));
    // all that comes after it moves up by one, so the second page lacks one
    server.remove_during_listing("d2/f499");
    server.put("", "another", b"x", &json!({}));
    let said = one.sync();
    assert!(said.contains("1 received, 1 moved to the trash"), "{said}");
    assert_eq!(one.tree(), stored(&server));
}

#[test]
fn one_directory_of_the_server_is_all_that_is_touched() {
    let (server, one, _) = two();
    server.put("share/d", "a", b"a", &json!({}));
    server.put("share2", "b", b"b", &json!({}));
    server.put("", "share", b"c", &json!({}));
    assert_eq!(one.pass(&["--remote", "share"]).status, 0);
    assert_eq!(one.tree(), of(&[("d/a", "a")]));
    one.put("mine", "m");
    fs::remove_file(one.at("d/a")).unwrap();
    assert_eq!(one.pass(&["--remote", "share"]).status, 0);
    assert_eq!(
        stored(&server),
        of(&[("share", "c"), ("share/mine", "m"), ("share2/b", "b")])
    );
}

#[test]
fn a_hostile_name_leads_nowhere_else() {
    let (server, one, _) = two();
    for (path, name) in [
        ("..", "out"),
        ("", "../out"),
        ("/etc", "out"),
        ("a/../..", "out"),
        ("", ".."),
        (".mesync", "id"),
        ("a", ""),
    ] {
        server.put(path, name, b"evil", &json!({ "mode": 0o104_777 }));
    }
    server.put("", "fine", b"fine", &json!({ "mode": 0o104_777 }));
    fs::create_dir(one.m.home().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(one.m.home().join("elsewhere"), one.at("link")).unwrap();
    server.put("link", "in", b"evil", &json!({}));
    one.pass(&[]);
    assert_eq!(one.tree()["fine"], "fine");
    let names: Vec<_> = fs::read_dir(one.m.home())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert!(
        !names.iter().any(|n| n == "out")
            && fs::read_dir(one.m.home().join("elsewhere"))
                .unwrap()
                .next()
                .is_none(),
        "{names:?}"
    );
    assert!(
        one.tree()
            .values()
            .filter(|content| *content == "evil")
            .count()
            <= 1,
        "{:?}",
        one.tree()
    );
}

#[test]
fn what_cannot_be_kept_there_is_named_and_the_rest_goes_on() {
    let (server, one, two) = two();
    one.put("empty", "");
    one.put("long", vec![7; 3_000_000]);
    one.put("fine", "x");
    fs::create_dir(one.at("nothing-in-it")).unwrap();
    std::os::unix::fs::symlink("fine", one.at("link")).unwrap();
    let ran = one.pass(&[]);
    assert!(
        ran.status != 0 && ran.out.contains("not in sync: 1 sent"),
        "{ran:?}"
    );
    for what in [
        "does not take empty files",
        "does not take a file of 3000000 bytes",
        "a symbolic link is not kept",
    ] {
        assert_eq!(ran.out.matches(what).count(), 1, "{what}: {ran:?}");
    }
    assert_eq!(stored(&server), of(&[("fine", "x")]));
    assert!(
        one.at("nothing-in-it").exists(),
        "what only this machine has is not deleted"
    );
    fs::remove_dir(one.at("nothing-in-it")).unwrap();
    one.put("nothing-in-it", "a file now");
    fs::create_dir(one.at("another")).unwrap();
    one.pass(&[]);
    fs::remove_dir(one.at("another")).unwrap();
    server.put("", "another", b"a file there", &json!({}));
    one.pass(&[]);
    two.sync();
    assert_eq!(
        (
            one.tree()["another"].as_str(),
            two.tree()["nothing-in-it"].as_str()
        ),
        ("a file there", "a file now")
    );
    server.remove("another");
    server.remove("nothing-in-it");
    one.pass(&[]);
    // what comes to be too long is not deleted there for that
    one.put("fine", vec![8; 3_000_000]);
    one.pass(&[]);
    two.sync();
    assert_eq!(
        (stored(&server), two.tree()),
        (of(&[("fine", "x")]), of(&[("fine", "x")]))
    );

    server.put("", "bad", b"right", &json!({}));
    server.spoil("bad");
    let ran = two.pass(&[]);
    assert!(
        ran.out.contains("is not what it has announced") && !two.at("bad").exists(),
        "{ran:?}"
    );
    server.put("", "bad", b"right again", &json!({}));
    two.sync();
    assert_eq!(two.tree()["bad"], "right again");
}

/// Nobody remembers there what a change has come to.
#[test]
fn an_answer_that_is_lost_makes_no_second_edit() {
    let (server, one, two) = two();
    one.put("f", "base");
    one.put("g", "moved");
    one.put("h", "deleted");
    one.put("i", "stays");
    one.sync();
    two.sync();
    let once = |what: &dyn Fn(), wants: &[(&str, &str)]| {
        what();
        // a request is sent again once, on a new connection
        server.lose_answers(2);
        one.pass(&[]);
        assert_eq!(server.answers_to_lose(), 0);
        one.sync();
        two.sync();
        let wants = of(wants);
        assert_eq!(
            (one.tree(), two.tree(), stored(&server)),
            (wants.clone(), wants.clone(), wants)
        );
    };
    once(
        &|| one.put("f", "edited"),
        &[
            ("f", "edited"),
            ("g", "moved"),
            ("h", "deleted"),
            ("i", "stays"),
        ],
    );
    once(
        &|| one.rename("g", "d/g"),
        &[
            ("d/g", "moved"),
            ("f", "edited"),
            ("h", "deleted"),
            ("i", "stays"),
        ],
    );
    once(
        &|| fs::remove_file(one.at("h")).unwrap(),
        &[("d/g", "moved"), ("f", "edited"), ("i", "stays")],
    );
    once(
        &|| one.put("new", "new"),
        &[
            ("d/g", "moved"),
            ("f", "edited"),
            ("i", "stays"),
            ("new", "new"),
        ],
    );
}

#[test]
fn a_server_that_is_not_there_is_said() {
    let (_server, one, _) = two();
    let mut command = one.m.command(["sync", "-w", one.at("").to_str().unwrap()]);
    command
        .env("XDG_CONFIG_HOME", one.m.home().join("none"))
        .env("MESYNC_SERVER_URL", "http://127.0.0.1:1");
    program::ran(&mut command).check(69, "connection refused");
}

#[test]
fn daemons_follow_each_other() {
    let (server, mut one, mut two) = two();
    one.put("d/before", "before");
    one.start();
    two.start();
    wait_for("both listen", &[&one, &two], || server.listeners() == 2);
    let same = |what: &str, one: &Machine, two: &Machine, wants: &[(&str, &str)]| {
        let wants = of(wants);
        wait_for(what, &[one, two], || {
            one.tree() == wants && two.tree() == wants && stored(&server) == wants
        });
    };
    same(
        "what was there before",
        &one,
        &two,
        &[("d/before", "before")],
    );
    one.put("new", "new");
    same(
        "something new",
        &one,
        &two,
        &[("d/before", "before"), ("new", "new")],
    );
    two.put("new", "edited by two");
    same(
        "an edit",
        &one,
        &two,
        &[("d/before", "before"), ("new", "edited by two")],
    );
    one.rename("d/before", "after");
    same(
        "a rename",
        &one,
        &two,
        &[("after", "before"), ("new", "edited by two")],
    );
    fs::remove_file(two.at("new")).unwrap();
    same("a delete", &one, &two, &[("after", "before")]);

    // a 401 after a restart of the server
    server.forget_tokens();
    one.put("again", "x");
    same(
        "after the tokens",
        &one,
        &two,
        &[("after", "before"), ("again", "x")],
    );

    // edited on both while neither runs
    one.stop();
    two.stop();
    one.put("after", "by one");
    two.put("after", "by two, longer");
    one.start();
    wait_for("one has sent its edit", &[&one], || {
        stored(&server)["after"] == "by one"
    });
    two.start();
    wait_for("both are kept", &[&one, &two], || {
        one.tree().len() == 3 && one.tree() == two.tree() && stored(&server) == one.tree()
    });
    assert_eq!(one.tree()["after"], "by one");
    assert!(
        one.tree()
            .values()
            .any(|content| content == "by two, longer")
    );
    assert_eq!(
        one.log().matches("is no mesync hub").count(),
        2,
        "once a start"
    );

    // whatever was done, it comes to rest
    let (mut before, mut since) = (server.listings(), Instant::now());
    wait_for("nobody lists any more", &[&one, &two], || {
        if server.listings() != before {
            (before, since) = (server.listings(), Instant::now());
        }
        since.elapsed() > Duration::from_secs(2)
    });
}

#[test]
fn a_daemon_that_starts_before_its_server_goes_on_when_that_is_there() {
    let address = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let m = Mesync::named("one");
    fs::create_dir(m.home().join("dir")).unwrap();
    let mut one = Machine { m, daemon: None };
    one.put("f", "x");
    one.start_as(
        "daemon",
        &[
            ("MESYNC_SERVER_URL", &format!("http://{address}")),
            ("MESYNC_API_KEY", KEY),
        ],
    );
    wait_for("it says what is wrong", &[&one], || {
        one.log().contains("cannot reach hub")
    });
    let server = S3em::start_at(&address);
    wait_for("the file is there", &[&one], || {
        stored(&server) == of(&[("f", "x")])
    });
}

/// The whole client: its messages have another server, or none that knows them.
#[test]
fn files_go_on_whatever_becomes_of_messages() {
    let (server, mut one, mut two) = two();
    one.start_as("start", &[]);
    two.start_as(
        "start",
        &[("MESYNC_SERVER_URL", &server.url), ("MESYNC_API_KEY", KEY)],
    );
    one.put("f", "x");
    wait_for("the file comes", &[&one, &two], || {
        two.tree() == of(&[("f", "x")])
    });
    two.put("f", "y, longer");
    wait_for("its edit comes", &[&one, &two], || {
        one.tree() == of(&[("f", "y, longer")])
    });
}

#[test]
fn many_files_at_once_do_not_make_many_listings() {
    let (server, mut one, mut two) = two();
    one.start();
    two.start();
    wait_for("both listen", &[&one, &two], || server.listeners() == 2);
    for n in 0..400 {
        one.put(&format!("d{}/f{n}", n % 5), format!("content {n}"));
    }
    wait_for("all of them arrive", &[&one, &two], || {
        stored(&server).len() == 400 && two.tree() == one.tree()
    });
    let listings = server.listings();
    assert!(
        listings < 800,
        "{listings} listings for 400 files on two machines"
    );
}
