//! Listings and changes: in order, counted, and page by page.

use super::*;

#[test]
fn a_listing_below_directories_is_that_part_of_the_whole_in_its_order() {
    let hub = TestStore::new();
    for full in [
        "a",
        "docs/b",
        "docs/a/c",
        "docs-old/x",
        "docs-old/y/z",
        "docs0/x",
        "docs/d",
        "e/docs/f",
        "Docs/g",
        "z/h",
    ] {
        hub.put_bytes(full, full.as_bytes(), 1);
    }
    let dirs = ["docs", "docs-old", "z"];
    let page = |path: &str, below: Option<Vec<String>>, offset, limit| {
        let (records, total) = hub
            .store
            .list(&Listing {
                path: path.into(),
                offset,
                limit,
                below,
                ..Listing::default()
            })
            .unwrap();
        let names: Vec<String> = records.iter().map(Record::full_name).collect();
        (names, total)
    };
    let below = || Some(dirs.iter().map(|dir| dir.to_string()).collect());
    for path in [
        "",
        "d",
        "docs",
        "docs/",
        "docs/a/",
        "docs-old/",
        "e/",
        "z/h",
    ] {
        let mut whole = page(path, None, 0, 100).0;
        whole.retain(|full| dirs.iter().any(|dir| full.starts_with(&format!("{dir}/"))));
        let pages = (0..4).flat_map(|n| page(path, below(), n * 2, 2).0);
        assert_eq!(pages.collect::<Vec<_>>(), whole, "{path:?}");
        assert_eq!(page(path, below(), 0, 1).1, whole.len() as u64, "{path:?}");
    }
    assert_eq!(page("", Some(Vec::new()), 0, 10), (Vec::new(), 0));
}

#[test]
fn listings_are_in_order_and_counted() {
    let hub = TestStore::new();
    for full in [
        "b",
        "docs/b",
        "docs/a/c",
        "docs-old/x",
        "docs/a/b",
        "docsx",
        "a",
    ] {
        hub.put_bytes(full, full.as_bytes(), 1);
    }
    let dir = put(&hub, "docs/empty", b"", 1);
    hub.put(Put {
        kind: EntryKind::Dir,
        ..dir
    });
    hub.put_bytes("gone", b"x", 1);
    hub.delete(id_of("gone"), Condition::None);
    let check = |path: &str, search: &str, offset: usize, limit: usize, wants: &str, total: u64| {
        let (names, count) = hub.names(path, search, offset, limit);
        assert_eq!(
            (names.join(" ").as_str(), count),
            (wants, total),
            "{path:?} {search:?} {offset} {limit}"
        );
    };
    check(
        "",
        "",
        0,
        100,
        "a b docsx docs/b docs-old/x docs/a/b docs/a/c",
        7,
    );
    check("", "", 2, 2, "docsx docs/b", 7);
    check("", "", 9, 2, "", 7);
    check("docs", "", 0, 100, "docs/b docs-old/x docs/a/b docs/a/c", 4);
    check("docs/", "", 0, 100, "docs/b docs/a/b docs/a/c", 3);
    check("docs/", "", 1, 1, "docs/a/b", 3);
    check("docs/a", "", 0, 100, "docs/a/b docs/a/c", 2);
    check("", "b", 0, 100, "b docs/b docs/a/b", 3);
    check("docs/", "b", 1, 100, "docs/a/b", 2);
    check("x", "", 0, 100, "", 0);
    let (all, total) = hub
        .store
        .list(&Listing {
            all_kinds: true,
            limit: 2,
            ..Listing::default()
        })
        .unwrap();
    assert_eq!((all.len(), total), (2, 8));
    let counts = hub.store.file_counts().unwrap();
    assert_eq!(
        (counts.files, counts.tombstones, counts.versions, counts.rev),
        (8, 1, 1, 10)
    );
}

#[test]
fn pages_of_a_full_listing_fit_together_while_files_change() {
    let hub = TestStore::new();
    let fill = |from: u64, to: u64| {
        let template = put(&hub, "x", b"", 1);
        let file = |n| Put {
            name: name(&format!("d{}/{n:05}", n % 3)),
            fresh: id_of(&format!("{n}")),
            ..template.clone()
        };
        hub.file_op(FileOp::put((from..to).map(file)));
    };
    let check = |total: u64| {
        let pages: Vec<String> = (0..=total as usize / 700)
            .flat_map(|page| hub.names("", "", page * 700, 700).0)
            .collect();
        let whole: Vec<String> = ["d0/", "d1/", "d2/"]
            .iter()
            .flat_map(|dir| hub.names(dir, "", 0, 1000).0)
            .collect();
        assert!(
            pages == whole && pages.len() as u64 == total && pages.is_sorted(),
            "{} of {total}",
            pages.len()
        );
        assert_eq!(hub.names("", "", total as usize, 10), (vec![], total));
        assert_eq!(hub.names("", "", usize::MAX, 10), (vec![], total));
    };
    check(0);
    fill(0, 2500);
    check(2500);
    hub.delete(id_of("7"), Condition::None);
    check(2499);
    fill(2500, 2501);
    check(2500);
}

#[test]
fn changes_are_returned_page_by_page_with_one_row_for_each_name() {
    let hub = TestStore::new();
    (0..5).for_each(|n| drop(hub.put_bytes(&format!("f{n}"), b"1", 1)));
    hub.put_bytes("f1", b"2", 2);
    hub.delete(id_of("f2"), Condition::None);
    let page = |after: u64, began, limit| {
        let page = hub
            .store
            .changes(after, 0.into(), began, limit, (&|_| true, usize::MAX))
            .unwrap()
            .page()
            .unwrap();
        (
            page.changes.iter().map(|r| r.rev).collect::<Vec<_>>(),
            page.more,
            page.began,
            page.rev,
        )
    };
    assert_eq!(page(0, None, 3), (vec![1, 4, 5], true, Some(7), 7));
    hub.put_bytes("f0", b"3", 3);
    assert_eq!(page(5, Some(7), 3), (vec![6, 7, 8], false, Some(7), 8));
    assert_eq!(page(8, None, 3), (vec![], false, None, 8));
    assert_eq!(
        hub.store
            .changes(7, 0.into(), None, 3, (&|_| true, usize::MAX))
            .unwrap()
            .page()
            .unwrap()
            .epoch,
        EPOCH
    );
}
