//! Which paths are ignored, by the rules of a directory and by the settings.

use super::*;

#[test]
fn ignored_directories_are_not_entered_and_private_ones_never_synced() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("base/state")).unwrap();
    let private = [
        root.join("base"),
        root.join("not/there"),
        root.join("login.toml"),
        dir.path().join("elsewhere"),
    ];
    let opened = DiskTree::open(
        &root,
        None,
        Uuid::new_v4(),
        &["*.bak".into(), "build/".into()],
        &private,
    )
    .unwrap();
    let OpenedTree::Ready(tree) = opened else {
        panic!("held")
    };
    let w = World { dir, tree: *tree };
    [
        "a.bak",
        "build",
        "base/x",
        "login.toml",
        "d/build/x",
        "keep",
        "base2",
    ]
    .iter()
    .for_each(|name| w.write(name, "x"));
    let ignored = |name: &str| w.tree.ignored(name);
    assert!(
        [
            "a.bak",
            "x/a.bak",
            "d/build",
            "d/build/x",
            "base",
            "base/state/y",
            "login.toml"
        ]
        .into_iter()
        .all(ignored)
    );
    assert!(
        ![
            "build",
            "keep",
            "base2",
            "base2/x",
            "d",
            ".mesyncignore",
            "gone/build"
        ]
        .into_iter()
        .any(ignored)
    );
    assert_eq!(
        w.names(),
        [
            "a.bak",
            "base",
            "base2",
            "build",
            "d",
            "d/build",
            "keep",
            "login.toml"
        ]
    );
    w.write(".mesyncignore", "!a.bak\nkeep\n");
    assert_eq!(
        (w.tree.read_rules().unwrap(), w.tree.read_rules().unwrap()),
        (true, false)
    );
    assert!(w.tree.ignored("keep") && w.tree.ignored("a.bak") && w.tree.ignored("b.bak"));
    fs::remove_file(w.at(".mesyncignore")).unwrap();
    assert!(w.tree.read_rules().unwrap() && !w.tree.ignored("keep"));
}

#[test]
fn rules_that_cannot_be_read_let_only_their_own_file_travel() {
    let check = |make: &dyn Fn(&Path)| {
        let dir = tempfile::tempdir().unwrap();
        make(&dir.path().join(ignore::FILE));
        let OpenedTree::Ready(tree) =
            DiskTree::open(dir.path(), None, Uuid::new_v4(), &[], &[]).unwrap()
        else {
            panic!("held")
        };
        assert!(tree.read_rules().is_err() && tree.ignored("a") && !tree.ignored(ignore::FILE));
        // a later correction of the file counts, and an error after it changes nothing
        let file = dir.path().join(ignore::FILE);
        let _ = fs::remove_dir(&file).or_else(|_| fs::remove_file(&file));
        fs::write(&file, "b\n").unwrap();
        assert!(tree.read_rules().unwrap() && !tree.ignored("a") && tree.ignored("b"));
        fs::remove_file(&file).unwrap();
        make(&file);
        assert!(tree.read_rules().is_err() && !tree.ignored("a") && tree.ignored("b"));
    };
    check(&|file| fs::create_dir(file).unwrap());
    check(&|file| std::os::unix::fs::symlink("/etc/passwd", file).unwrap());
    check(&|file| std::os::unix::fs::symlink("nowhere", file).unwrap());
    check(&|file| fs::write(file, "x".repeat(limits::IGNORE_BYTES + 1)).unwrap());
}

#[test]
fn a_rules_file_cannot_include_what_the_settings_ignore() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(ignore::FILE), "!secret\nother\n!*\n").unwrap();
    let given = ["secret".to_string()];
    let OpenedTree::Ready(tree) =
        DiskTree::open(dir.path(), None, Uuid::new_v4(), &given, &[]).unwrap()
    else {
        panic!("held")
    };
    assert!(tree.ignored("secret") && tree.ignored("d/secret") && !tree.ignored("other"));
}
