//! The blocks of the README and of the manuals: each is run as it is written, by BusyBox, on machines of their own.
//!
//! `mesync-protocol(7)` and `mesync-formats(5)` have tests of their own.

use std::fs;
use std::path::Path;

use crate::support::program::Mesync;
use crate::support::shells::Shells;
use crate::support::world::{wait_for, write_program};

/// One block, without its indent and markup.
#[derive(Debug, Clone)]
struct Block {
    /// `sh`, `console` or `toml`; of a manual page always empty.
    language: String,
    text: String,
}

impl Block {
    fn first(&self) -> &str {
        self.text.lines().next().unwrap_or_default()
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The fenced blocks of a Markdown page.
fn of_markdown(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut is_inside = false;
    for line in text.lines() {
        match line.strip_prefix("```") {
            Some(_) if is_inside => is_inside = false,
            Some(language) => {
                is_inside = true;
                let language = language.to_string();
                let text = String::new();
                blocks.push(Block { language, text });
            }
            None if is_inside => {
                let block = blocks.last_mut().unwrap();
                block.text += line;
                block.text.push('\n');
            }
            None => {}
        }
    }
    blocks
}

/// The literal displays of a manual page: `.Bd -literal` and `.Dl`.
fn of_manual(text: &str) -> Vec<Block> {
    let plain = |line: &str| line.replace("\\&", "").replace("\\e", "\\") + "\n";
    let block = |text: String| Block {
        language: String::new(),
        text,
    };
    let mut blocks: Vec<Block> = Vec::new();
    let mut is_inside = false;
    for line in text.lines() {
        if line.starts_with(".Bd -literal") {
            is_inside = true;
            blocks.push(block(String::new()));
        } else if line == ".Ed" {
            is_inside = false;
        } else if is_inside {
            blocks.last_mut().unwrap().text += &plain(line);
        } else if let Some(line) = line.strip_prefix(".Dl ") {
            blocks.push(block(plain(line)));
        }
    }
    blocks
}

/// Text whose numbers are all alike: addresses, codes and times differ from those of the page.
fn with_equal_numbers(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        let c = if c.is_ascii_digit() { '0' } else { c };
        if c != '0' || !out.ends_with('0') {
            out.push(c);
        }
    }
    out
}

/// Gives the blocks of a page in order, each named by how its first line begins; all must be asked for.
struct Pages {
    left: Vec<Block>,
}

impl Pages {
    #[track_caller]
    fn next(&mut self, begin: &str) -> Block {
        assert!(!self.left.is_empty(), "no block is left: {begin}");
        let block = self.left.remove(0);
        assert!(block.first().starts_with(begin), "{begin}: {block:?}");
        block
    }

    /// A block that this test does not run, and the reason.
    #[track_caller]
    fn skip(&mut self, begin: &str, reason: &str) {
        assert!(!reason.is_empty());
        self.next(begin);
    }

    #[track_caller]
    fn end(self) {
        assert!(self.left.is_empty(), "not run: {:#?}", self.left);
    }
}

/// Runs a block with prompts, `HOST$ ` or `$ ` on a given machine, and waits for the output that it shows.
#[track_caller]
fn type_in(shells: &mut Shells, on: &'static str, block: &Block) {
    let mut host = on.to_string();
    for line in block.text.lines().filter(|line| !line.is_empty()) {
        let is_name = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        let command = line.split_once("$ ").filter(|(prompt, _)| is_name(prompt));
        if let Some((prompt, command)) = command {
            if !prompt.is_empty() {
                host = prompt.to_string();
            }
            shells.run(&host, command);
        } else {
            let wanted = with_equal_numbers(line);
            let mut said = String::new();
            let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
            while !said.contains(&wanted) {
                assert!(
                    std::time::Instant::now() < end,
                    "{host} shows no {wanted:?}, but {said:?}"
                );
                said = with_equal_numbers(&shells.output(&host));
                std::thread::park_timeout(std::time::Duration::from_millis(5));
            }
        }
    }
}

fn wait_for_file(shells: &Shells, host: &str, path: &str) {
    let file = shells.home(host).join(path);
    wait_for(&format!("{host} has {path}"), &shells.world, || {
        file.exists()
    });
}

/// Waits until a machine gets the messages to all.
fn wait_until_listed(shells: &mut Shells, host: &str) {
    let lines = format!("until mesync hosts | grep -q {host}; do :; done");
    shells.run("hub", &lines);
}

fn put(shells: &Shells, host: &str, path: &str, text: &str) {
    let file = shells.home(host).join(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}

fn put_hook(shells: &Shells, host: &str, text: &str) {
    let hook = shells.home(host).join(".daemon/hooks/deploy");
    fs::create_dir_all(hook.parent().unwrap()).unwrap();
    write_program(&hook, text);
}

#[test]
fn the_blocks_of_the_readme_run_as_they_are() {
    let Some(mut shells) = Shells::start(&["web-1", "web-2", "web-3"]) else {
        return;
    };
    let shells = &mut shells;
    let mut pages = Pages {
        left: of_markdown(&read("README.md")),
    };
    pages.skip(
        "make &&",
        "builds; install runs \"make install\", .ci/run the rest",
    );
    shells.run("hub", &pages.next("mesync serve --start &").text);
    let join = pages.next("web-1$ export MESYNC_SERVER_URL");
    type_in(shells, "hub", &join);
    let second = Block {
        text: join.text.replace("web-1", "web-2"),
        ..join
    };
    type_in(shells, "hub", &second);
    for host in ["web-1", "web-2"] {
        wait_until_listed(shells, host);
    }
    // the sentence below it
    shells.run("hub", "mesync invite web-3 | ssh web-3 mesync join -");

    let send = pages.next("mesync send deploy");
    assert!(shells.run("hub", &send.text).contains("web-2"));
    wait_for("both messages", &shells.world, || {
        fs::read_dir(shells.home("web-1").join(".daemon/inbox")).map_or(0, |d| d.count()) >= 2
    });

    let share = pages.next("mkdir ~/share");
    for host in ["web-1", "web-2"] {
        shells.run(host, "kill $!; wait $!");
        shells.run(host, &share.text);
    }
    shells.run("web-1", "echo text >~/share/notes.txt");
    wait_for_file(shells, "web-2", "share/notes.txt");
    let settings = pages.next("# ~/.daemon/config.toml");
    assert_eq!(settings.language, "toml");
    put(shells, "web-3", "settings.toml", &settings.text);
    shells.run("web-3", "cat ~/settings.toml >>~/.daemon/config.toml");
    let said = shells.run("web-3", "mesync sync --dry-run 2>&1 || true");
    assert!(said.contains("/home/me/share"), "{said}");

    put(shells, "web-1", "report.pdf", "report");
    put(shells, "web-1", "photos/one.jpg", "one");
    let files = pages.next("mesync upload report.pdf");
    let follow = "mesync events --follow";
    assert!(
        files
            .text
            .trim_end()
            .lines()
            .last()
            .unwrap()
            .starts_with(follow)
    );
    shells.begin("web-1", &files.text);
    // a file that is written all the time is not sent, so each time another one
    let (other, mut count) = (shells.home("web-2").join("share"), 0);
    wait_for("the events are shown", &shells.world, || {
        if count % 200 == 0 {
            fs::write(other.join(format!("later-{count}")), "later").unwrap();
        }
        count += 1;
        shells.output("web-1").contains("later-")
    });
    shells.end_last("web-1");
    let deploy = pages.next("#!/bin/sh");
    put_hook(shells, "web-2", &deploy.text);
    shells.run("hub", &send.text);
    wait_for_file(shells, "web-2", "deployed");
    let drop = pages.next("echo '{\"type\": \"backup.done\"");
    shells.run("web-1", &drop.text);
    wait_for("the dropped message", &shells.world, || {
        let names = fs::read_dir(shells.home("web-2").join(".daemon/inbox")).unwrap();
        names.flatten().any(|entry| {
            fs::read_to_string(entry.path()).is_ok_and(|text| text.contains("backup.done"))
        })
    });
    pages.end();
}

#[test]
fn the_blocks_of_the_manual_run_as_they_are() {
    let Some(mut shells) = Shells::start(&["web-1", "web-2"]) else {
        return;
    };
    let shells = &mut shells;
    let mut pages = Pages {
        left: of_manual(&read("man/mesync.1")),
    };
    let serve = pages.next("$ mesync serve --start");
    let serve = serve.text.trim().trim_start_matches("$ ");
    shells.run("hub", &format!("{serve} &"));
    shells.wait("hub", "hub started");
    type_in(shells, "web-1", &pages.next("$ export MESYNC_SERVER_URL"));
    type_in(shells, "hub", &pages.next("$ mesync accept"));
    wait_until_listed(shells, "web-1");
    type_in(shells, "hub", &pages.next("$ mesync invite web-2"));
    put(shells, "hub", "rows.json", "[1, 2, 3]");
    type_in(shells, "hub", &pages.next("$ mesync send deploy"));
    wait_for("all five messages", &shells.world, || {
        fs::read_dir(shells.home("web-1").join(".daemon/inbox")).map_or(0, |d| d.count()) >= 5
    });
    put(shells, "web-1", "reports/today.pdf", "report");
    type_in(shells, "web-1", &pages.next("$ mesync login"));
    let report = shells.home("web-1").join("today.pdf");
    assert_eq!(fs::read_to_string(report).unwrap(), "report");

    shells.run(
        "web-1",
        "kill $!; wait $!; mkdir ~/share; echo x >~/share/x",
    );
    let sync = pages.next("$ mesync sync -w ~/share");
    let mut lines: Vec<_> = sync
        .text
        .lines()
        .map(|l| l.trim_start_matches("$ "))
        .collect();
    let start = lines.pop().unwrap();
    // a dry run that would do something has exit status 1
    shells.run("web-1", &format!("{} || [ $? = 1 ]", lines.remove(0)));
    shells.run("web-1", &lines.join("\n"));
    shells.begin("web-1", start);
    shells.wait("web-1", "in sync");
    shells.end_last("web-1");
    let report = pages.next("mesync status >/tmp/status").text;
    shells.run("web-1", &report);
    let mail = shells.home("web-1").join("mail");
    assert!(!mail.exists(), "{:?}", fs::read_to_string(mail));
    shells.run(
        "web-1",
        "echo {} >~/.daemon/outbox/bad.json; mesync start --once || true",
    );
    shells.run("web-1", &report);
    let mail = fs::read_to_string(mail).unwrap();
    assert!(
        mail.starts_with("-s mesync on web-1 root\nhost  ") && mail.contains("degraded"),
        "{mail}"
    );
    pages.end();

    let mut pages = Pages {
        left: of_manual(&read("man/mesync.5")),
    };
    pages.skip("{", "a message, not a command");
    // makes the directories
    shells.run("web-2", "mesync start --once");
    shells.run(
        "web-2",
        &pages.next("echo '{\"type\": \"backup.done\"}'").text,
    );
    shells.run("web-2", "mesync start --once");
    put(
        shells,
        "web-2",
        "../bin/long-job",
        "#!/bin/sh\necho >/mnt/web-2/ran\n",
    );
    shells.run("web-2", "chmod 755 /mnt/bin/long-job");
    shells.run("web-2", &pages.next("setsid sh -c").text);
    wait_for_file(shells, "web-2", "ran");
    for _ in 0..3 {
        pages.skip("{\"dir\"", "the payload of a local event, not a command");
    }
    for begin in ["server_url", "[[watch]]", "[hub]"] {
        let mesync = Mesync::new();
        mesync.put("config.toml", pages.next(begin).text);
        mesync.ok(["list", "inbox"]);
    }
    put_hook(shells, "web-2", &pages.next("#!/bin/sh").text);
    shells.run(
        "hub",
        "mesync send deploy --payload '{\"version\": \"1.4.2\"}'",
    );
    wait_for("the hub has it", &shells.world, || {
        !shells
            .home("hub")
            .join(".daemon/outbox")
            .read_dir()
            .unwrap()
            .any(|e| e.unwrap().file_name().to_string_lossy().ends_with(".json"))
    });
    shells.run("web-2", "mesync start --once");
    wait_for_file(shells, "web-2", "deployed");
    pages.end();
}

#[test]
fn the_blocks_of_the_migration_page_run_as_they_are() {
    let Some(mut shells) = Shells::start(&["web-1"]) else {
        return;
    };
    let shells = &mut shells;
    let mut pages = Pages {
        left: of_manual(&read("man/mesync-migration.7")),
    };
    shells.run("hub", "mesync serve &");
    shells.wait("hub", "hub started");
    let key = shells.run("hub", "mesync key add web-1 2>/dev/null");
    put(shells, "web-1", "share/x", "x");
    pages.skip(
        "systemctl --user stop s3ec",
        "needs systemd and a unit of s3ec",
    );
    let s3ec = pages.next("mesync sync -w ~/share --dry-run");
    let login = pages.next("mesync login --server http://hub:8080");
    // a person types it at the prompt of the first line
    shells.run("web-1", &format!("export MESYNC_API_KEY={}", key.trim()));
    shells.run("web-1", &login.text);
    assert!(shells.run("web-1", &s3ec.text).contains("in sync"));
    assert!(shells.run("web-1", "mesync ls").contains('x'));
    pages.end();
}
