//! Directories and files as a user names them: by an argument, by their local path, and with all that is below them.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::transfer::Place;

/// A directory `share` that is synced with the directory `site` of the hub.
fn place() -> Place {
    let place = Place::new();
    place.put("share/docs/a.txt", b"a");
    place.put("share/docs/deep/b.txt", b"bb");
    place.put("share/docs2/c.txt", b"ccc");
    place.put("share/top.txt", b"top");
    place.ok(&["sync", "share", "--remote", "site"]);
    place
}

impl Place {
    /// Runs a command in a directory; its standard output.
    fn ok_in(&self, dir: &str, args: &[&str]) -> String {
        let output = self
            .command(args)
            .current_dir(self.at(dir))
            .output()
            .unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn fails_in(&self, dir: &str, args: &[&str], status: i32, words: &str) {
        let output = self
            .command(args)
            .current_dir(self.at(dir))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
    }
}

/// The names in a listing.
fn listed(text: &str) -> Vec<&str> {
    let names = text.lines().skip(1);
    names.filter_map(|l| l.split_whitespace().last()).collect()
}

#[test]
fn a_directory_is_an_argument_or_a_flag_and_not_both() {
    let place = place();
    place.ok(&["sync", "share", "--remote", "site"]);
    place.ok(&["sync", "-w", "share", "--remote", "site"]);
    place.fails_in(
        "",
        &["sync", "share", "-w", "share"],
        2,
        "DIR and -w exclude each other",
    );
    place.fails_in(
        "",
        &["sync", "share", "docs"],
        2,
        "sync does not take \"docs\"",
    );
    place.fails_in("", &["sync", "none"], 78, "cannot open the directory none");
}

#[test]
fn ls_lists_all_below_a_directory() {
    let place = place();
    let all = ["site/docs/a.txt", "site/docs/deep/b.txt"];
    assert_eq!(listed(&place.ok(&["ls", "site/docs"])), all);
    assert_eq!(listed(&place.ok(&["ls", "/site/docs/"])), all);
    assert_eq!(listed(&place.ok_in("share", &["ls", "./docs"])), all);
    assert_eq!(listed(&place.ok_in("share/docs", &["ls", "."])), all);
    assert_eq!(
        listed(&place.ok(&["ls", "site/docs", "--limit", "1"])),
        all[..1]
    );
    assert_eq!(
        listed(&place.ok(&["ls", "site/docs", "--offset", "1"])),
        all[1..]
    );
    assert_eq!(place.ok(&["ls", "nothing"]), "");
    assert_eq!(listed(&place.ok(&["ls", "site/docs/a.txt"])), all[..1]);
    // a local directory, if the hub has no such path
    assert_eq!(listed(&place.ok(&["ls", "share/docs"])), all);
    assert_eq!(listed(&place.ok_in("share", &["ls", "docs"])), all);
    assert_eq!(
        listed(&place.ok_in("share", &["ls", "top.txt"])),
        ["site/top.txt"]
    );
    let copied = place.ok_in("share", &["download", "-r", "docs", "-o", "../copy"]);
    assert!(copied.contains("2 paths downloaded"), "{copied}");
    assert_eq!(std::fs::read(place.at("copy/deep/b.txt")).unwrap(), b"bb");
    // names come before ids
    let id = place.json(&["ls", "site/docs", "--json"])[0]["id"].clone();
    let with_ids = place.ok(&["ls", "site/docs", "--ids"]);
    assert!(with_ids.contains("  site/docs/a.txt  "), "{with_ids}");
    assert_eq!(listed(&with_ids)[0], id.as_str().unwrap());
    assert!(
        !place
            .ok(&["ls", "site/docs"])
            .contains(listed(&with_ids)[0])
    );
    place.fails_in(
        "",
        &["ls", "site", "--path", "site"],
        2,
        "DIR and --path exclude each other",
    );
    place.fails_in("", &["ls", "./docs"], 1, "./docs is in no synced directory");
}

#[test]
fn a_local_path_means_the_file_on_the_hub() {
    let place = place();
    place.put("share/docs/a.txt", b"changed");
    place.ok(&["sync", "share", "--remote", "site"]);
    for what in ["a.txt", "./a.txt", "../docs/a.txt", "site/docs/a.txt"] {
        let versions = place.ok_in("share/docs", &["versions", what, "--json"]);
        assert_eq!(versions.lines().count(), 1, "{what}: {versions}");
    }
    let absolute = place.at("share/docs/a.txt");
    let info = place.ok(&["info", absolute.to_str().unwrap(), "--json"]);
    assert!(info.contains("\"path\":\"site/docs\""), "{info}");

    // a path is looked for on the hub first; an explicit one is local
    place.put("other/top.txt", b"of the root");
    place.ok(&["upload", "other/top.txt"]);
    // the argument and the flag
    let to = place.ok(&["download", "site/top.txt", "copy.txt"]);
    assert!(to.contains("downloaded to copy.txt"), "{to}");
    assert_eq!(std::fs::read(place.at("copy.txt")).unwrap(), b"top");
    place.fails_in(
        "",
        &["download", "site/top.txt", "a", "-o", "b"],
        2,
        "FILE and -o exclude each other",
    );
    assert_eq!(
        place.ok_in("share", &["download", "top.txt", "-o", "-"]),
        "of the root"
    );
    assert_eq!(
        place.ok_in("share", &["download", "./top.txt", "-o", "-"]),
        "top"
    );
    place.fails_in(
        "other",
        &["info", "./top.txt"],
        1,
        "is not a path in a directory that is synced",
    );

    // also of a file that is no longer here
    std::fs::remove_file(place.at("share/docs/a.txt")).unwrap();
    place.ok(&["sync", "share", "--remote", "site", "--allow-deletes"]);
    place.ok_in("share/docs", &["restore", "./a.txt"]);
    place.ok(&["sync", "share", "--remote", "site"]);
    assert_eq!(
        std::fs::read(place.at("share/docs/a.txt")).unwrap(),
        b"changed"
    );
}

#[test]
fn a_directory_is_downloaded_with_all_below_it() {
    let place = place();
    std::fs::set_permissions(
        place.at("share/docs/a.txt"),
        std::fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    symlink("a.txt", place.at("share/docs/link")).unwrap();
    std::fs::create_dir(place.at("share/docs/empty")).unwrap();
    place.ok(&["sync", "share", "--remote", "site"]);

    place.fails_in(
        "",
        &["download", "site/docs"],
        1,
        "site/docs is a directory on the hub (download -r",
    );
    place.ok(&["download", "-r", "site/docs"]);
    assert_eq!(std::fs::read(place.at("docs/deep/b.txt")).unwrap(), b"bb");
    assert_eq!(
        std::fs::metadata(place.at("docs/a.txt")).unwrap().mode() & 0o777,
        0o600
    );
    assert_eq!(
        std::fs::read_link(place.at("docs/link")).unwrap().to_str(),
        Some("a.txt")
    );
    assert!(place.at("docs/empty").is_dir() && !place.at("docs/c.txt").exists());

    // again: only the difference; a file that the hub does not have stays
    place.put("docs/a.txt", b"damaged");
    place.put("docs/mine", b"mine");
    let said = place.ok(&["download", "-r", "site/docs/"]);
    assert!(
        said.contains("2 unchanged") && said.contains("site/docs/a.txt"),
        "{said}"
    );
    assert_eq!(std::fs::read(place.at("docs/a.txt")).unwrap(), b"a");
    assert!(place.at("docs/mine").exists());

    // nothing is written through a link, and the rest arrives
    std::fs::create_dir_all(place.at("elsewhere")).unwrap();
    std::fs::create_dir_all(place.at("out")).unwrap();
    symlink(place.at("elsewhere"), place.at("out/deep")).unwrap();
    place.fails_in(
        "",
        &["download", "-r", "site/docs", "-o", "out"],
        73,
        "it is not a directory",
    );
    assert!(place.at("out/a.txt").exists());
    assert_eq!(std::fs::read_dir(place.at("elsewhere")).unwrap().count(), 0);

    place.fails_in(
        "",
        &["download", "-r", "none"],
        1,
        "there is no directory \"none\"",
    );
    place.fails_in(
        "",
        &["download", "-r", "site", "-o", "-"],
        2,
        "-r writes a directory",
    );
}

#[test]
fn a_last_argument_with_a_slash_is_a_directory_on_the_hub() {
    let place = place();
    place.put("one", b"1");
    place.put("dir/two", b"2");
    place.ok(&["upload", "one", "new/place/"]);
    assert_eq!(listed(&place.ok(&["ls", "new"])), ["new/place/one"]);
    // a directory of that name here is meant with -r only
    place.ok(&["upload", "one", "dir/"]);
    assert_eq!(listed(&place.ok(&["ls", "dir"])), ["dir/one"]);
    place.ok(&["upload", "-r", "one", "dir/"]);
    assert_eq!(listed(&place.ok(&["ls", "dir"])), ["dir/one", "dir/two"]);
    place.fails_in(
        "",
        &["upload", "one", "../up/"],
        2,
        "bad directory on the hub \"../up\"",
    );
}

#[test]
fn a_forgotten_directory_is_an_ordinary_one() {
    let place = place();
    let status = || place.ok(&["status", "--json"]);
    assert!(status().contains("/share\""), "{}", status());
    place.ok(&["forget", "share"]);
    assert!(!status().contains("/share\""), "{}", status());
    assert!(!place.at("share/.mesync").exists());
    assert_eq!(std::fs::read(place.at("share/docs/a.txt")).unwrap(), b"a");
    place.fails_in("", &["forget", "share"], 1, "is not synced by this client");
    // nothing is lost when it is synced again, by whichever name
    place.put("share/docs/a.txt", b"edited meanwhile");
    place.ok(&["sync", "share/docs", "--remote", "site/docs"]);
    let here = std::fs::read_dir(place.at("share/docs")).unwrap();
    assert_eq!(here.count(), 4, "both versions, deep, and .mesync");
}
