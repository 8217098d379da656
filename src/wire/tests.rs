//! Tests of messages and their limits.

use super::*;

fn check(text: &str, wants: &str) {
    let got = match Message::parse(text.as_bytes()) {
        Ok(m) => m.to_json(),
        Err(NotAMessage::Syntax(why)) => format!("syntax: {why}"),
        Err(NotAMessage::Content(why)) => why,
    };
    assert!(got.contains(wants), "{text}: {got}");
}

#[test]
fn messages_keep_unknown_fields_and_errors_have_a_reason() {
    check(
        r#"{"type":"x.y","payload":{"a":12345678901234567890.000001}}"#,
        r#""payload":{"a":12345678901234567890.000001}"#,
    );
    check(
        r#"{"type":"x","target":"Web-1","other":[1, 2]}"#,
        r#""target":"web-1","priority":"normal","other":[1, 2],"payload":null"#,
    );
    check(r#"{"payload":1}"#, "no \"type\"");
    check(r#"{"type":"../../bin/sh"}"#, "must be 1 to 64 letters");
    check(r#"{"type":"mesync.held"}"#, "made by mesync itself");
    check(r#"{"type":"x""#, "syntax: it is not JSON");
    check("[1]", "one JSON object, not [1]");
    check(r#"{"type":"x","id":"7"}"#, "must be a UUID");
    check(r#"{"type":"x","priority":"urgent"}"#, "high, normal or low");
    check(r#"{"type":"x","ttl":0}"#, "from 1 to 604800");
    check(r#"{"type":"x","created_at":"yesterday"}"#, "must be a time");
    check(
        &format!(r#"{{"type":"x","payload":"{}"}}"#, "a".repeat(MAX_MESSAGE)),
        "a message may have 262144",
    );
}

#[test]
fn hops_are_bounded_whatever_a_message_says() {
    let check = |hops: &str, wants: u64| {
        let message =
            Message::parse(format!(r#"{{"type":"x","hops":{hops}}}"#).as_bytes()).unwrap();
        assert_eq!(message.hops(), wants, "{hops}");
        assert!(
            message.to_json().contains(&format!("\"hops\":{hops}")),
            "it travels as it is"
        );
    };
    for (hops, wants) in [
        ("0", 0),
        ("2", 2),
        ("3", 3),
        ("4", 3),
        ("1e300", 3),
        ("99999999999999999999999", 3),
    ] {
        check(hops, wants);
    }
    for other in ["-1", "null", "\"3\"", "[3]", "{}", "true"] {
        check(other, 0);
    }
    assert_eq!(Message::parse(br#"{"type":"x"}"#).unwrap().hops(), 0);
}

#[test]
fn no_reason_is_longer_than_a_line() {
    let long = "a\\u0007\u{1f600}".repeat(10_000);
    let texts = [
        format!("\"{long}\""),
        format!("[\"{long}\"]"),
        format!("{{\"type\":\"{long}\"}}"),
        format!("{{\"type\":\"x\",\"ttl\":\"{long}\"}}"),
    ];
    for text in texts {
        let why = Message::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(why.len() < 1000 && !why.contains(char::is_control), "{why}");
    }
}

#[test]
fn a_deeply_nested_payload_does_not_exhaust_the_stack() {
    let deep = format!(
        r#"{{"type":"x","payload":{}{}}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    check(&deep, "[[[[");
}
