//! The chunks of a long file that its examination remembers.

use std::time::Duration;

use super::*;
use crate::chunking::Splitter;
use crate::wire::files::SINGLE;

#[test]
fn a_long_file_that_was_just_written_is_cut_while_it_is_hashed() {
    let w = world();
    let bytes: Vec<u8> = (0..SINGLE + 100_000).map(|n| (n * n / 7) as u8).collect();
    let mut splitter = Splitter::default();
    splitter.feed(&bytes);
    let content = splitter.finish();
    fs::write(w.at("long"), &bytes).unwrap();
    let local = w.local("long");
    assert_eq!(local.entry.hash, content.sha256);
    let other = Stamp {
        mtime: 1,
        ..local.stamp
    };
    assert_eq!(w.tree.take_content(&other), None);
    // a filesystem whose stamps do not show each write has none
    let expected = (!w.tree.blind).then_some(content);
    assert_eq!(w.tree.take_content(&local.stamp), expected);
    assert_eq!(w.tree.take_content(&local.stamp), None);
    // one that was only given its name or time is probably known
    let old = crate::clock::now() - Duration::from_secs(3600);
    let file = fs::File::options().append(true).open(w.at("long")).unwrap();
    file.set_modified(old).unwrap();
    let moved = w.local("long");
    assert_eq!(moved.entry.hash, local.entry.hash);
    assert_eq!(w.tree.take_content(&moved.stamp), None);
}
