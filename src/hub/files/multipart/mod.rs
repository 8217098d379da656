//! The body of a form (`multipart/form-data`, RFC 7578), parsed while it arrives: heads of parts and the bytes between them.
//!
//! Pure. It buffers only bytes that may be a delimiter, or the head of a part. The caller interprets the parts.

/// Bytes of the head of a part at most: a name of 1024 bytes, all escaped, and room for the rest.
pub const MAX_HEAD: usize = 16 * 1024;
/// Parts of one body at most.
pub const MAX_PARTS: usize = 32;

/// The head of a part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FormPart {
    pub name: String,
    /// Without the escapes of any program.
    pub filename: Option<String>,
    pub content_type: Option<String>,
}

/// Receives the parts of a body in order. Its errors end the parsing.
pub trait Sink {
    type Error: From<Malformed>;
    fn begin(&mut self, part: FormPart) -> Result<(), Self::Error>;
    fn data(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;
    fn end(&mut self) -> Result<(), Self::Error>;
}

/// Why a body is not a form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// The state of the parser.
#[derive(Debug)]
pub struct Parser {
    /// The end of a part: CR LF, two dashes, the boundary.
    delimiter: Vec<u8>,
    /// Bytes that are not yet parsed.
    held: Vec<u8>,
    state: ParserState,
    parts: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ParserState {
    /// The bytes before the first delimiter, which are ignored.
    Preamble,
    /// The rest of the line after a delimiter.
    Line,
    /// The head of a part, of which this many bytes were searched.
    Head(usize),
    Body,
    /// The bytes after the last delimiter, which are ignored.
    Epilogue,
}

/// The boundary in a `Content-Type`; `None`: it is not a form, or has no valid boundary.
pub fn boundary(content_type: &str) -> Option<String> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let found = Parameters(parameters.as_bytes()).find(|(name, _)| name == "boundary")?;
    let text = String::from_utf8(found.1).ok()?;
    // RFC 2046, 5.1.1
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&b);
    ((1..=70).contains(&text.len()) && text.bytes().all(allowed) && !text.ends_with(' '))
        .then_some(text)
}

impl Parser {
    pub fn new(boundary: &str) -> Parser {
        // the first delimiter may be at the start of the body, which counts as the start of a line
        Parser {
            delimiter: format!("\r\n--{boundary}").into_bytes(),
            held: b"\r\n".to_vec(),
            state: ParserState::Preamble,
            parts: 0,
        }
    }

    /// Parses the next bytes, and passes their parts to `sink`.
    pub fn feed<S: Sink>(&mut self, bytes: &[u8], sink: &mut S) -> Result<(), S::Error> {
        if self.state == ParserState::Epilogue {
            return Ok(());
        }
        self.held.extend_from_slice(bytes);
        let mut used = 0;
        while let Some(n) = self.step(used, sink)? {
            used += n;
        }
        self.held.drain(..used);
        Ok(())
    }

    /// Checks that the body is complete at its end.
    pub fn finish(&self) -> Result<(), Malformed> {
        match self.state {
            ParserState::Epilogue => Ok(()),
            ParserState::Preamble => Err(Malformed(
                "the body has no boundary as its Content-Type names it",
            )),
            _ => Err(Malformed("the body ends before its last boundary")),
        }
    }

    /// Parses some of the buffered bytes after `from`, and returns their number. `None`: more bytes are needed.
    fn step<S: Sink>(&mut self, from: usize, sink: &mut S) -> Result<Option<usize>, S::Error> {
        let held = &self.held[from..];
        match self.state {
            ParserState::Preamble | ParserState::Body => {
                let inside = self.state == ParserState::Body;
                let (plain, found) = search(held, &self.delimiter);
                if inside && plain > 0 {
                    sink.data(&held[..plain])?;
                }
                if !found {
                    return Ok((plain > 0).then_some(plain));
                }
                if inside {
                    sink.end()?;
                }
                self.state = ParserState::Line;
                Ok(Some(plain + self.delimiter.len()))
            }
            ParserState::Line => {
                // RFC 2046 allows padding
                let padding = held
                    .iter()
                    .take_while(|b| matches!(b, b' ' | b'\t'))
                    .count();
                match &held[padding..] {
                    [b'-', b'-', ..] if padding == 0 => self.state = ParserState::Epilogue,
                    [b'\r', b'\n', ..] => self.state = ParserState::Head(0),
                    [] | [b'\r'] | [b'-'] if padding < MAX_HEAD => return Ok(None),
                    _ => {
                        return Err(Malformed("a boundary line has trailing text").into());
                    }
                }
                if self.state == ParserState::Epilogue {
                    return Ok(Some(held.len()));
                }
                Ok(Some(padding + 2))
            }
            ParserState::Head(seen) => {
                let begin = seen.saturating_sub(3);
                let end = if held.starts_with(b"\r\n") {
                    Some(0)
                } else {
                    held[begin..]
                        .windows(4)
                        .position(|w| w == b"\r\n\r\n")
                        .map(|at| begin + at + 2)
                };
                let end = match end {
                    Some(end) if end <= MAX_HEAD => end,
                    None if held.len() <= MAX_HEAD => {
                        self.state = ParserState::Head(held.len());
                        return Ok(None);
                    }
                    _ => return Err(Malformed("the head of a part is too long").into()),
                };
                self.parts += 1;
                if self.parts > MAX_PARTS {
                    return Err(Malformed("the body has too many parts").into());
                }
                sink.begin(head(&held[..end])?)?;
                self.state = ParserState::Body;
                Ok(Some(end + 2))
            }
            ParserState::Epilogue => Ok(None),
        }
    }
}

/// The number of bytes before a possible delimiter, and whether a whole delimiter follows.
fn search(held: &[u8], delimiter: &[u8]) -> (usize, bool) {
    let mut at = 0;
    while let Some(next) = held[at..].iter().position(|b| *b == b'\r') {
        at += next;
        let rest = &held[at..];
        if rest.starts_with(delimiter) {
            return (at, true);
        }
        if delimiter.starts_with(rest) {
            return (at, false);
        }
        at += 1;
    }
    (held.len(), false)
}

/// Parses the lines of a head. A bare line feed is allowed in a quoted name; only CR LF ends a line.
fn head(bytes: &[u8]) -> Result<FormPart, Malformed> {
    let mut part = None;
    let mut content_type = None;
    let mut rest = bytes;
    while !rest.is_empty() {
        let end = rest
            .windows(2)
            .position(|w| w == b"\r\n")
            .unwrap_or(rest.len());
        let line = &rest[..end];
        rest = rest.get(end + 2..).unwrap_or_default();
        let colon = line
            .iter()
            .position(|b| *b == b':')
            .ok_or(Malformed("a line in the head of a part has no colon"))?;
        let (field, value) = (
            line[..colon].to_ascii_lowercase(),
            line[colon + 1..].trim_ascii(),
        );
        match field.as_slice() {
            b"content-disposition" if part.is_some() => {
                return Err(Malformed("a part has two Content-Dispositions"));
            }
            b"content-disposition" => part = Some(disposition(value)?),
            b"content-type" => content_type = Some(String::from_utf8_lossy(value).into_owned()),
            b"content-transfer-encoding"
                if ![&b"binary"[..], b"8bit", b"7bit"]
                    .contains(&value.to_ascii_lowercase().as_slice()) =>
            {
                return Err(Malformed("a part is encoded; send it as it is"));
            }
            _ => {}
        }
    }
    let part = part.ok_or(Malformed("a part has no Content-Disposition"))?;
    Ok(FormPart {
        content_type,
        ..part
    })
}

fn disposition(value: &[u8]) -> Result<FormPart, Malformed> {
    let end = value.iter().position(|b| *b == b';').unwrap_or(value.len());
    if !value[..end].trim_ascii().eq_ignore_ascii_case(b"form-data") {
        return Err(Malformed("a part is not form-data"));
    }
    let utf8 = |bytes: Vec<u8>| {
        String::from_utf8(bytes)
            .map_err(|_| Malformed("the name of a part, or of its file, is not UTF-8"))
    };
    let (mut name, mut filename, mut plain) = (None, None, None);
    for (key, value) in Parameters(&value[end..]) {
        match key.as_str() {
            "name" if name.is_none() => name = Some(utf8(value)?),
            "name*" => name = Some(extended(&value)?),
            "filename" => plain = Some(utf8(value)?),
            "filename*" => filename = Some(extended(&value)?),
            _ => {}
        }
    }
    let name = name.ok_or(Malformed("a part has no name"))?;
    Ok(FormPart {
        name,
        filename: filename.or(plain),
        content_type: None,
    })
}

/// `utf-8''a%20b` (RFC 8187).
fn extended(value: &[u8]) -> Result<String, Malformed> {
    let wrong = Malformed("a part has a name in another encoding than UTF-8");
    let mut parts = value.splitn(3, |b| *b == b'\'');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(charset), Some(_), Some(text)) if charset.eq_ignore_ascii_case(b"utf-8") => {
            let bytes: Vec<u8> = percent_encoding::percent_decode(text).collect();
            String::from_utf8(bytes).map_err(|_| wrong)
        }
        _ => Err(wrong),
    }
}

/// `; name=value; name="value"`: names in lower case, values without their quotes.
struct Parameters<'a>(&'a [u8]);

impl Iterator for Parameters<'_> {
    type Item = (String, Vec<u8>);

    fn next(&mut self) -> Option<Self::Item> {
        let begin = self
            .0
            .iter()
            .position(|b| !matches!(b, b';' | b' ' | b'\t'))?;
        self.0 = &self.0[begin..];
        let end = self
            .0
            .iter()
            .position(|b| matches!(b, b'=' | b';'))
            .unwrap_or(self.0.len());
        let name = String::from_utf8_lossy(self.0[..end].trim_ascii()).to_ascii_lowercase();
        let rest = self.0[end..]
            .strip_prefix(b"=")
            .unwrap_or_default()
            .trim_ascii_start();
        if self.0.get(end) != Some(&b'=') {
            self.0 = &self.0[end..];
            return Some((name, Vec::new()));
        }
        if let Some(quoted) = rest.strip_prefix(b"\"") {
            let (value, used) = unquote(quoted);
            self.0 = &quoted[used..];
            return Some((name, value));
        }
        let end = rest.iter().position(|b| *b == b';').unwrap_or(rest.len());
        self.0 = &rest[end..];
        Some((name, rest[..end].trim_ascii().to_vec()))
    }
}

/// The text up to the closing quote, and the number of bytes parsed.
///
/// A backslash escapes only quotes, backslashes and line ends. Before other characters it is part of the name, as browsers
/// send it. Percent signs stay, because `%20` may be an escape or part of a name.
fn unquote(bytes: &[u8]) -> (Vec<u8>, usize) {
    let (mut text, mut at) = (Vec::new(), 0);
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match (byte, bytes.get(at)) {
            (b'"', _) => break,
            (b'\\', Some(next @ (b'"' | b'\\' | b'\r' | b'\n'))) => {
                text.push(*next);
                at += 1;
            }
            _ => text.push(*byte),
        }
    }
    (text, at)
}

#[cfg(test)]
mod tests;
