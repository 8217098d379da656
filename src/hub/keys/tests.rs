//! Tests of the file of keys.

use std::os::unix::fs::MetadataExt;

use super::file::{FILE_HEADING, parse};
use super::*;
use crate::wire::rights::RightsRow;

#[test]
fn keys_come_and_go_while_the_hub_looks_on() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("hub");
    let first = add_key(&data, "Web-1").unwrap();
    let keys = Keys::open(&data).unwrap();
    let second = add_key(&data, "web-2").unwrap();
    let name = |key: &str| find(&keys.current(), &hash(key), clock::now()).map(|k| k.name.clone());
    assert_eq!(
        (
            name(&first).as_deref(),
            name(&second).as_deref(),
            name("other")
        ),
        (Some("web-1"), Some("web-2"), None)
    );
    assert!(
        add_key(&data, "web-1")
            .unwrap_err()
            .to_string()
            .contains("key remove web-1")
    );
    assert!(
        add_key(&data, "../x")
            .unwrap_err()
            .to_string()
            .contains("a host name is")
    );
    remove_key(&data, "web-1").unwrap();
    assert_eq!(
        (name(&first), name(&second).as_deref()),
        (None, Some("web-2"))
    );
    assert!(Arc::ptr_eq(&keys.current(), &keys.reload()));
    assert!(
        remove_key(&data, "web-1")
            .unwrap_err()
            .to_string()
            .contains("it has none")
    );
    assert_eq!(
        list_keys(&data)
            .unwrap()
            .iter()
            .map(|k| k.name.as_str())
            .collect::<Vec<_>>(),
        ["web-2"]
    );
    let meta = std::fs::metadata(keys_file(&data)).unwrap();
    assert_eq!(meta.mode() & 0o777, 0o600);
    assert!(
        !std::fs::read_to_string(keys_file(&data))
            .unwrap()
            .contains(&second)
    );
}

#[test]
fn a_bad_file_keeps_the_old_keys_and_a_good_one_replaces_them() {
    let dir = tempfile::tempdir().unwrap();
    let key = add_key(dir.path(), "web-1").unwrap();
    let keys = Keys::open(dir.path()).unwrap();
    let known = || find(&keys.current(), &hash(&key), clock::now()).is_some();
    let good = std::fs::read(keys_file(dir.path())).unwrap();
    for bad in [
        "[[key]\n",
        "[[key]]\nname = 'x'\nsha256 = 'y'\n",
        "\u{fffd}",
        "",
        "\n",
        "\0\0\0\0",
        FILE_HEADING,
        "# \n",
    ] {
        std::fs::write(keys_file(dir.path()), bad).unwrap();
        assert!(known(), "{bad}");
        assert!(
            Keys::open(dir.path()).is_err() && add_key(dir.path(), "web-9").is_err(),
            "{bad}"
        );
    }
    std::fs::write(keys_file(dir.path()), &good).unwrap();
    assert!(known());
    std::fs::remove_file(keys_file(dir.path())).unwrap();
    assert!(
        known(),
        "a missing file locks no machine out, and lets none in"
    );
    assert!(
        Keys::open(dir.path())
            .err()
            .unwrap()
            .to_string()
            .contains("there was one")
    );
    // recovery: a new key makes a new file
    let new = add_key(dir.path(), "web-2").unwrap();
    assert!(find(&keys.current(), &hash(&new), clock::now()).is_some() && !known());
    remove_key(dir.path(), "web-2").unwrap();
    assert!(keys.current().is_empty() && Keys::open(dir.path()).unwrap().current().is_empty());
}

#[test]
fn keys_that_cannot_be_read_for_a_moment_are_read_when_they_can() {
    let dir = tempfile::tempdir().unwrap();
    let key = add_key(dir.path(), "web-1").unwrap();
    let keys = Keys::open(dir.path()).unwrap();
    remove_key(dir.path(), "web-1").unwrap();
    let good = std::fs::read(keys_file(dir.path())).unwrap();
    // a directory can be opened but not read as a file, by any user
    std::fs::remove_file(keys_file(dir.path())).unwrap();
    std::fs::create_dir(keys_file(dir.path())).unwrap();
    std::fs::set_permissions(
        keys_file(dir.path()),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    assert!(find(&keys.current(), &hash(&key), clock::now()).is_some());
    std::fs::remove_dir(keys_file(dir.path())).unwrap();
    std::fs::write(keys_file(dir.path()), &good).unwrap();
    assert!(keys.current().is_empty());
}

#[test]
fn rights_are_kept_and_a_file_of_an_older_version_means_all_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let row = format!(
        "[[key]]\nname = \"web-1\"\nsha256 = \"{}\"\n",
        hex(&[7; 32])
    );
    let write = |text: &str| std::fs::write(keys_file(dir.path()), text).unwrap();
    write(&row);
    let keys = Keys::open(dir.path()).unwrap();
    assert_eq!(*keys.current()[0].rights, Rights::default());
    let limited = RightsRow {
        files: Some(vec!["a/b".into()]),
        read_only: true,
        send: Some(vec!["db".into()]),
        no_messages: true,
        admin: true,
    };
    let wanted = Rights::read(limited.clone()).unwrap();
    let before = keys.current();
    set_rights(dir.path(), "web-1", |rights| {
        *rights = wanted.clone();
        Ok(())
    })
    .unwrap();
    assert!(!Arc::ptr_eq(&before, &keys.current()), "event streams end");
    assert_eq!((*keys.current()[0].rights).row(), limited);
    for wrong in [
        "read_onyl = true",
        "files = \"a\"",
        "files = [\"..\"]",
        "send = [\"../x\"]",
    ] {
        write(&format!("{row}[key.rights]\n{wrong}\n"));
        assert_eq!((*keys.current()[0].rights).row(), limited, "{wrong}");
        assert!(Keys::open(dir.path()).is_err(), "{wrong}");
    }
}

#[test]
fn a_rotated_key_works_until_the_new_one_is_used_or_a_day_has_passed() {
    let dir = tempfile::tempdir().unwrap();
    let first = add_key(dir.path(), "web-1").unwrap();
    let second = rotate_key(dir.path(), "web-1").unwrap();
    // the second key was never used, so the machine still has the first
    let third = rotate_key(dir.path(), "web-1").unwrap();
    let known = |after: Duration| {
        let (keys, now) = (list_keys(dir.path()).unwrap(), clock::now() + after);
        [&first, &second, &third].map(|key| find(&keys, &hash(key), now).is_some())
    };
    assert_eq!(known(Duration::ZERO), [true, false, true]);
    assert_eq!(known(ROTATION), [false, false, true]);
    end_rotation(dir.path(), "web-1", &hash(&third)).unwrap();
    assert_eq!(known(Duration::ZERO), [false, false, true]);
}

#[test]
fn a_secret_that_was_cut_short_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("local.key");
    let secret = own_secret(&path).unwrap();
    assert_eq!(own_secret(&path).unwrap(), secret);
    for cut in [0, 1, 31] {
        disk::write_durably(&path, &secret.as_bytes()[..cut], 0o600).unwrap();
        assert!(own_secret(&path).is_err(), "{cut} characters");
    }
}

#[test]
fn many_commands_at_once_lose_no_key() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for i in 0..8 {
            let data = dir.path();
            scope.spawn(move || add_key(data, &format!("web-{i}")).unwrap());
        }
    });
    assert_eq!(list_keys(dir.path()).unwrap().len(), 8);
}

#[test]
fn bad_files_are_named_with_their_line() {
    let check = |text: &str, wants: &str| {
        let got = parse(text).unwrap_err();
        assert!(got.contains(wants), "{text}: {got}");
    };
    let row = |name: &str, hash: &str| format!("[[key]]\nname = '{name}'\nsha256 = '{hash}'\n");
    check("\n\nx = [", "line 3:");
    check("\n[[key]]\nname = 1", "line 3:");
    check("keys = 1", "line 1:");
    check(&row("a b", &"0".repeat(64)), "a host name is");
    check(&row("a", &"g".repeat(64)), "sha256 of a must be");
    check(&row("a", &"+".repeat(64)), "sha256 of a must be");
    check(
        &(row("a", &"0".repeat(64)) + &row("A", &"1".repeat(64))),
        "the key of a occurs twice",
    );
    check(
        &(0..=limits::KEYS)
            .map(|i| row(&format!("h{i}"), &format!("{i:064}")))
            .collect::<String>(),
        "at most 10000",
    );
}
