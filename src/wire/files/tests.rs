//! Tests of the JSON of files.

use super::*;

#[test]
fn hashes_are_64_digits() {
    let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(Hash::of(b"abc").to_string(), text);
    assert_eq!(text.parse(), Ok(Hash::of(b"abc")));
    for wrong in ["", &text[1..], &text.replace('b', "g"), &format!("{text}0")] {
        assert!(
            wrong
                .parse::<Hash>()
                .unwrap_err()
                .contains("64 hexadecimal digits"),
            "{wrong}"
        );
    }
}

#[test]
fn names_are_taken_apart_and_put_together() {
    for (full, path, name) in [("a", "", "a"), ("a/b", "a", "b"), ("a/b/c d", "a/b", "c d")] {
        let parsed = Name::parse(full).unwrap();
        assert_eq!(
            (
                parsed.path.as_str(),
                parsed.name.as_str(),
                parsed.full().as_str()
            ),
            (path, name, full)
        );
        assert_eq!(Name::new(path, name), Ok(parsed));
    }
    for (path, name) in [
        ("", ""),
        ("/a", "b"),
        ("a/", "b"),
        ("a", "b/c"),
        ("..", "a"),
        ("a", ".."),
        ("", "a\0"),
    ] {
        assert!(Name::new(path, name).is_err(), "{path:?} {name:?}");
    }
}

#[test]
fn a_record_of_another_server_is_read_with_defaults() {
    let text = r#"{"id":"00000000-0000-0000-0000-000000000001","name":"a","path":null,"size":3,"etag":null,"mode":null,"x":[1]}"#;
    let record: Record = serde_json::from_str(text).unwrap();
    assert_eq!(
        (record.rev, record.kind, record.path.as_str(), record.size),
        (0, EntryKind::File, "", 3)
    );
    let back: Record = serde_json::from_str(&serde_json::to_string(&record).unwrap()).unwrap();
    assert_eq!(back, record);
}
