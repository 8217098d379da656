//! Tests of the parser of forms.

use super::*;

/// Records the parts.
#[derive(Default)]
struct Told(Vec<(FormPart, Vec<u8>)>, bool);

impl Sink for Told {
    type Error = Malformed;

    fn begin(&mut self, part: FormPart) -> Result<(), Malformed> {
        assert!(
            !std::mem::replace(&mut self.1, true),
            "a part begins in another"
        );
        self.0.push((part, Vec::new()));
        Ok(())
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        assert!(self.1 && !bytes.is_empty());
        self.0.last_mut().unwrap().1.extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<(), Malformed> {
        assert!(std::mem::replace(&mut self.1, false));
        Ok(())
    }
}

fn read(body: &[u8], step: usize) -> Result<Vec<(FormPart, Vec<u8>)>, &'static str> {
    let (mut parser, mut told) = (Parser::new("XY"), Told::default());
    for piece in body.chunks(step) {
        parser.feed(piece, &mut told).map_err(|e| e.0)?;
        assert!(parser.held.len() <= MAX_HEAD + 4 + step);
    }
    parser.finish().map_err(|e| e.0)?;
    Ok(told.0)
}

/// The name, file name and content of each part, or the error.
type Read<'a> = Result<&'a [(&'a str, Option<&'a str>, &'a str)], &'a str>;

fn check(body: &str, wants: Read) {
    for step in [1, 2, 3, 7, 64, 100_000] {
        let got = read(body.as_bytes(), step);
        let got: Result<Vec<_>, _> = got.map(|parts| {
            parts
                .into_iter()
                .map(|(p, b)| (p.name, p.filename, String::from_utf8(b).unwrap()))
                .collect()
        });
        match (&got, wants) {
            (Ok(parts), Ok(wants)) => {
                let parts: Vec<_> = parts
                    .iter()
                    .map(|(n, f, b)| (n.as_str(), f.as_deref(), b.as_str()))
                    .collect();
                assert_eq!(parts, wants, "{body:?} by {step}");
            }
            (Err(why), Err(wants)) => assert!(why.contains(wants), "{body:?} by {step}: {why}"),
            _ => panic!("{body:?} by {step}: {got:?}"),
        }
    }
}

const HEAD: &str = "Content-Disposition: form-data; name=\"a\"\r\n\r\n";

#[test]
fn parts_are_found_however_the_bytes_arrive() {
    let part = |bytes: &str| format!("--XY\r\n{HEAD}{bytes}\r\n--XY--\r\n");
    for bytes in [
        "",
        "x",
        "\r\n",
        "\r",
        "--XY",
        "\r\n--X",
        "\r\r\n-\r\n--\r\n--X\r\n",
        "\r\n\r\n",
    ] {
        check(&part(bytes), Ok(&[("a", None, bytes)]));
    }
    check(
        &format!("ignored\r\n--XY \t\r\n{HEAD}1\r\n--XY\r\n{HEAD}2\r\n--XY--ignored\r\n--XY\r\n"),
        Ok(&[("a", None, "1"), ("a", None, "2")]),
    );
    check("--XY--", Ok(&[]));
}

#[test]
fn names_are_unescaped_as_programs_escape_them() {
    let named = |how: &str| {
        format!(
            "--XY\r\nContent-Type: text/plain\r\nCONTENT-disposition:form-data; {how}\r\n\r\nx\r\n--XY--"
        )
    };
    for (how, wants) in [
        ("name=f; filename=plain.txt", "plain.txt"),
        ("filename=\"a b;c=d\"; name=\"f\"", "a b;c=d"),
        (r#"name="f"; filename="q\"b\\c""#, r#"q"b\c"#),
        ("name=\"f\"; filename=\"line\\\nend\"", "line\nend"),
        ("name=\"f\"; filename=\"bare\nline\"", "bare\nline"),
        (r#"name="f"; filename="C:\dir""#, r"C:\dir"),
        ("name=\"f\"; filename=\"100%20%\"", "100%20%"),
        ("name=\"f\"; filename=\"é😀\"", "é😀"),
        (
            "name=\"f\"; filename=\"x\"; filename*=UTF-8''%C3%A9%20",
            "é ",
        ),
        ("name*=utf-8''f; filename=\"open", "open"),
    ] {
        check(&named(how), Ok(&[("f", Some(wants), "x")]));
    }
}

#[test]
fn an_invalid_form_is_refused_with_a_reason() {
    for (body, why) in [
        ("", "no boundary"),
        ("--XZ\r\n", "no boundary"),
        ("--XY", "before its last boundary"),
        ("--XY\r\n", "before its last boundary"),
        (
            &format!("--XY\r\n{HEAD}1\r\n--XY-"),
            "before its last boundary",
        ),
        ("--XYZ\r\n", "trailing text"),
        ("--XY -- \r\n", "trailing text"),
        ("--XY\r\n\r\nx\r\n--XY--", "no Content-Disposition"),
        ("--XY\r\nnonsense\r\n\r\nx\r\n--XY--", "no colon"),
        (
            "--XY\r\nContent-Disposition: attachment; name=a\r\n\r\n\r\n--XY--",
            "not form-data",
        ),
        (
            "--XY\r\nContent-Disposition: form-data\r\n\r\n\r\n--XY--",
            "no name",
        ),
        (
            &format!("--XY\r\nContent-Transfer-Encoding: base64\r\n{HEAD}eA==\r\n--XY--"),
            "encoded",
        ),
        (
            &format!("--XY\r\nA: {}\r\n{HEAD}\r\n--XY--", "x".repeat(MAX_HEAD)),
            "too long",
        ),
        (
            &format!(
                "{}--XY--",
                format!("--XY\r\n{HEAD}\r\n").repeat(MAX_PARTS + 1)
            ),
            "too many parts",
        ),
    ] {
        check(body, Err(why));
    }
}

#[test]
fn boundaries_are_found_in_content_types() {
    let check =
        |text: &str, wants: Option<&str>| assert_eq!(boundary(text).as_deref(), wants, "{text}");
    check("multipart/form-data; boundary=----x1", Some("----x1"));
    check(
        "Multipart/Form-Data; charset=utf-8; BOUNDARY=\"a b:c\"",
        Some("a b:c"),
    );
    for wrong in [
        "",
        "multipart/form-data",
        "text/plain; boundary=x",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=\"a\\\"b\"",
    ] {
        check(wrong, None);
    }
    check(
        &format!("multipart/form-data; boundary={}", "x".repeat(71)),
        None,
    );
}
