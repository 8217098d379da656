//! Server-Sent Events, line by line (WHATWG HTML, section 9.2: "Server-sent events").
//!
//! Pure: lines in, events out. It neither reads the connection nor knows what an event means.

/// One event of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// The last id that the stream has named, if any.
    pub id: Option<String>,
    pub kind: Option<String>,
    pub data: String,
}

/// Collects the fields of one event.
#[derive(Debug, Default)]
pub struct SseParser {
    id: Option<String>,
    kind: Option<String>,
    data: Option<String>,
}

/// Bytes of one event, at most: lines beyond it are dropped, since a hostile hub could send without end.
pub const MAX_EVENT: usize = 1024 * 1024;

impl SseParser {
    /// Takes one line without its line end; an empty line completes an event.
    pub fn line(&mut self, line: &str) -> Option<SseEvent> {
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() {
            let kind = self.kind.take();
            return self.data.take().map(|data| SseEvent {
                id: self.id.clone(),
                kind,
                data,
            });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => match &mut self.data {
                Some(data) if data.len() + value.len() < MAX_EVENT => {
                    data.push('\n');
                    data.push_str(value);
                }
                Some(_) => {}
                None => self.data = Some(value.to_string()),
            },
            "event" => self.kind = Some(value.to_string()),
            "id" if !value.contains('\0') => self.id = Some(value.to_string()),
            // a comment, `retry`, or something newer than we are
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &str, wants: &[(Option<&str>, &str)]) {
        let mut parser = SseParser::default();
        let got: Vec<SseEvent> = lines.split('\n').filter_map(|l| parser.line(l)).collect();
        let got: Vec<(Option<&str>, &str)> = got
            .iter()
            .map(|e| (e.id.as_deref(), e.data.as_str()))
            .collect();
        assert_eq!(got, wants, "{lines:?}");
    }

    #[test]
    fn events_as_the_standard_has_them() {
        check(": keep-alive\n\nretry: 2000\n\ndata: a\n\n", &[(None, "a")]);
        check(
            "id: 7\ndata: a\ndata:b\n\ndata: c\n\n",
            &[(Some("7"), "a\nb"), (Some("7"), "c")],
        );
        check("data: a\r\n\r\ndata", &[(None, "a")]);
        check("data\n\nevent: x\n\n", &[(None, "")]);
        check("unknown: 1\nid: a\0b\ndata:  two\n\n", &[(None, " two")]);
    }

    #[test]
    fn an_event_without_end_stays_within_its_limit() {
        let (mut parser, line) = (
            SseParser::default(),
            format!("data: {}", "x".repeat(100_000)),
        );
        for _ in 0..100 {
            assert_eq!(parser.line(&line), None);
        }
        let event = parser.line("").expect("an event");
        assert!(
            event.data.len() <= MAX_EVENT && event.data.len() > MAX_EVENT - 100_001,
            "{}",
            event.data.len()
        );
        assert_eq!(parser.line(""), None);
    }
}
