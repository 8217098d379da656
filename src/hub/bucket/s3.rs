//! A small S3 client: objects of one bucket by Signature Version 4, with conditional writes.
//!
//! It is not a general S3 library: no multipart, no versions, no access lists. Sources: "Authenticating Requests (AWS
//! Signature Version 4)" and "Conditional writes" in the Amazon S3 manual; path-style addresses, which all stores know.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use ureq::http;

use super::objects::{
    ListedObject, Object, ObjectFault, ObjectResult, ObjectStore, PutIf, PutOutcome, Response,
};
use crate::config::bucket::{AccessKey, BucketUrl};
use crate::error::{Error, Kind, plain};
use crate::tls::Trust;
use crate::wire::files::Hash;
use crate::{agent, clock};

/// Bytes of an object that is read at once, at most: a part of a snapshot.
const MAX_OBJECT_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of a listing's page, at most: 1000 rows with names of 1024 bytes.
const MAX_LIST_BYTES: u64 = 4 * 1024 * 1024;
/// How long the store may take to accept a connection, and to begin a response.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the whole of one request may take.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(120);
const MAX_KEPT_CONNECTIONS: usize = 16;

/// One bucket, over pooled connections; shared by threads.
pub struct S3 {
    url: BucketUrl,
    region: String,
    key: AccessKey,
    agent: ureq::Agent,
    /// Milliseconds that the store's clock is ahead of this machine's, once the store has refused a request because of it.
    skew: AtomicI64,
    started: Instant,
}

/// A request before it is signed.
struct UnsignedRequest<'a> {
    method: &'static str,
    /// The key in the bucket, not encoded; empty for the bucket itself.
    key: String,
    /// Sorted by name, not encoded.
    query: Vec<(&'static str, String)>,
    condition: Option<(&'static str, String)>,
    body: &'a [u8],
}

impl S3 {
    /// `trust`: the authorities that must have signed the certificate of an `https` store; the public ones if `None`.
    pub fn new(url: BucketUrl, region: String, key: AccessKey, trust: Option<&Trust>) -> S3 {
        let config = agent::config(MAX_KEPT_CONNECTIONS, trust)
            .max_idle_age(Duration::from_secs(20))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(RESPONSE_TIMEOUT))
            .timeout_global(Some(WHOLE_TIMEOUT));
        S3 {
            url,
            region,
            key,
            agent: config.build().into(),
            skew: AtomicI64::new(0),
            started: clock::monotonic(),
        }
    }

    fn key_of(&self, name: &str) -> String {
        format!("{}{name}", self.url.prefix)
    }

    fn now(&self) -> u64 {
        clock::millis(clock::now()).saturating_add_signed(self.skew.load(Relaxed))
    }

    /// Sends a request, and once more if the store only minds the clock.
    fn send(&self, request: &UnsignedRequest<'_>, most: u64) -> Result<RawResponse, ObjectFault> {
        let first = self.send_once(request, most)?;
        if first.status == 403 && first.date > 0 && first.says("RequestTimeTooSkewed") {
            self.skew
                .fetch_add(first.date as i64 - self.now() as i64, Relaxed);
            return self.send_once(request, most);
        }
        Ok(first)
    }

    fn send_once(
        &self,
        request: &UnsignedRequest<'_>,
        most: u64,
    ) -> Result<RawResponse, ObjectFault> {
        let path = encode(&format!("/{}/{}", self.url.bucket, request.key), true);
        let query: Vec<String> = (request.query.iter())
            .map(|(name, value)| format!("{}={}", encode(name, false), encode(value, false)))
            .collect();
        let query = query.join("&");
        let time = timestamp(self.now());
        let digest = Hash::of(request.body).to_string();
        let authorization = self.authorization(request, &path, &query, &time, &digest);
        let question = if query.is_empty() { "" } else { "?" };
        let mut builder = http::Request::builder()
            .method(request.method)
            .uri(format!(
                "{}://{}{path}{question}{query}",
                self.url.scheme, self.url.host
            ))
            .header("x-amz-date", &time)
            .header("x-amz-content-sha256", &digest)
            .header("authorization", authorization);
        if let Some((name, value)) = &request.condition {
            builder = builder.header(*name, value);
        }
        let response = if request.method == "PUT" {
            builder
                .body(request.body)
                .map_err(ureq::Error::from)
                .and_then(|request| self.agent.run(request))
        } else {
            builder
                .body(())
                .map_err(ureq::Error::from)
                .and_then(|request| self.agent.run(request))
        };
        let response = response.map_err(|e| self.unreachable(&e))?;
        let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_string());
        let time = |name: &str| header(name).and_then(|text| http_date(&text));
        let mut raw = RawResponse {
            status: response.status().as_u16(),
            modified: time("last-modified"),
            date: time("date").unwrap_or(0),
            body: Vec::new(),
        };
        let mut body = response.into_body();
        raw.body = body
            .with_config()
            .limit(most)
            .read_to_vec()
            .map_err(|e| self.unreachable(&e))?;
        Ok(raw)
    }

    /// Signs method, path, query, the conditions and the body's hash.
    fn authorization(
        &self,
        request: &UnsignedRequest<'_>,
        path: &str,
        query: &str,
        time: &str,
        digest: &str,
    ) -> String {
        let mut headers = vec![
            ("host", self.url.host.clone()),
            ("x-amz-content-sha256", digest.to_string()),
            ("x-amz-date", time.to_string()),
        ];
        headers.extend(request.condition.clone());
        headers.sort();
        let lines: String = headers
            .iter()
            .map(|(name, value)| format!("{name}:{value}\n"))
            .collect();
        let names = headers
            .iter()
            .map(|(name, _)| *name)
            .collect::<Vec<_>>()
            .join(";");
        let canonical = format!(
            "{}\n{path}\n{query}\n{lines}\n{names}\n{digest}",
            request.method
        );
        let day = &time[..8];
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let text = format!(
            "AWS4-HMAC-SHA256\n{time}\n{scope}\n{}",
            Hash::of(canonical.as_bytes())
        );
        let key = [day, &self.region, "s3", "aws4_request"].iter().fold(
            format!("AWS4{}", self.key.secret).into_bytes(),
            |key, part| mac(&key, part.as_bytes()),
        );
        let signature = mac(&key, text.as_bytes())
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect::<String>();
        format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            self.key.id
        )
    }

    fn unreachable(&self, e: &ureq::Error) -> ObjectFault {
        let why = match e {
            ureq::Error::Io(e) => plain(e),
            ureq::Error::Timeout(_) => "no response in time".into(),
            ureq::Error::HostNotFound => "its host name is not known".into(),
            other => other.to_string(),
        };
        ObjectFault::Unknown(Error::new(
            Kind::Unreachable,
            format!("cannot reach the bucket {}: {why}", self.url),
        ))
    }

    /// The failure that a status means, for a request that does not expect it.
    fn refused(&self, raw: &RawResponse, name: &str) -> ObjectFault {
        let code = between(&raw.text(), "<Code>", "</Code>").unwrap_or_default();
        let reason = if code.is_empty() {
            raw.status.to_string()
        } else {
            format!("{} {code}", raw.status)
        };
        let what = format!(
            "cannot use {name} in the bucket {}: the store answers {reason}",
            self.url
        );
        let error = |kind, hint: &str| Error::new(kind, what.clone()).hint(hint.to_string());
        match raw.status {
            409 | 429 | 500 | 502.. => ObjectFault::Unknown(Error::new(Kind::Unreachable, what)),
            401 | 403 => ObjectFault::Refused(error(
                Kind::Settings,
                "check bucket_key_file, bucket_region, and that the key may get, put, list and delete objects",
            )),
            404 => ObjectFault::Refused(error(
                Kind::Settings,
                "make the bucket first, or mend the setting bucket",
            )),
            501 => ObjectFault::Refused(error(
                Kind::Settings,
                "this store does not know conditional writes: use another one",
            )),
            _ => ObjectFault::Refused(Error::new(Kind::Settings, what)),
        }
    }
}

struct RawResponse {
    status: u16,
    modified: Option<u64>,
    /// 0: the response has none.
    date: u64,
    body: Vec<u8>,
}

impl RawResponse {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn says(&self, code: &str) -> bool {
        self.text().contains(&format!("<Code>{code}</Code>"))
    }

    fn with<T>(&self, value: T) -> ObjectResult<T> {
        Ok(Response {
            value,
            date: self.date,
        })
    }
}

impl ObjectStore for S3 {
    fn put(&self, name: &str, bytes: &[u8], only_if: PutIf) -> ObjectResult<PutOutcome> {
        let condition = match only_if {
            PutIf::Always => None,
            PutIf::Absent => Some(("if-none-match", "*".to_string())),
        };
        let request = UnsignedRequest {
            method: "PUT",
            key: self.key_of(name),
            query: Vec::new(),
            condition,
            body: bytes,
        };
        let raw = self.send(&request, MAX_LIST_BYTES)?;
        match raw.status {
            200..=204 => raw.with(PutOutcome::Done),
            412 => raw.with(PutOutcome::Failed),
            _ => Err(self.refused(&raw, name)),
        }
    }

    fn get(&self, name: &str) -> ObjectResult<Option<Object>> {
        let request = UnsignedRequest {
            method: "GET",
            key: self.key_of(name),
            query: Vec::new(),
            condition: None,
            body: b"",
        };
        let mut raw = self.send(&request, MAX_OBJECT_BYTES)?;
        match raw.status {
            200 => {
                let object = Object {
                    bytes: std::mem::take(&mut raw.body),
                    modified: raw.modified.unwrap_or(0),
                };
                raw.with(Some(object))
            }
            404 if !raw.says("NoSuchBucket") => raw.with(None),
            _ => Err(self.refused(&raw, name)),
        }
    }

    fn delete(&self, name: &str) -> ObjectResult<()> {
        let request = UnsignedRequest {
            method: "DELETE",
            key: self.key_of(name),
            query: Vec::new(),
            condition: None,
            body: b"",
        };
        let raw = self.send(&request, MAX_LIST_BYTES)?;
        match raw.status {
            200..=204 => raw.with(()),
            404 if !raw.says("NoSuchBucket") => raw.with(()),
            _ => Err(self.refused(&raw, name)),
        }
    }

    fn list(&self, prefix: &str, after: &str) -> ObjectResult<Vec<ListedObject>> {
        let mut rows: Vec<ListedObject> = Vec::new();
        loop {
            let after = rows.last().map_or(after, |row| &row.name);
            let mut query = vec![
                ("list-type", "2".to_string()),
                ("prefix", self.key_of(prefix)),
            ];
            if !after.is_empty() {
                query.push(("start-after", self.key_of(after)));
            }
            let request = UnsignedRequest {
                method: "GET",
                key: String::new(),
                query,
                condition: None,
                body: b"",
            };
            let raw = self.send(&request, MAX_LIST_BYTES)?;
            let text = match raw.status {
                200 => raw.text(),
                _ => return Err(self.refused(&raw, "the list of objects")),
            };
            let before = rows.len();
            for part in text.split("<Contents>").skip(1) {
                let field = |name: &str| between(part, &format!("<{name}>"), &format!("</{name}>"));
                let name = field("Key")
                    .and_then(|key| Some(key.strip_prefix(&self.url.prefix)?.to_string()));
                let modified = field("LastModified").and_then(|text| clock::parse_rfc3339(&text));
                if let Some(((name, size), modified)) = name.zip(field("Size")).zip(modified) {
                    rows.push(ListedObject {
                        name,
                        size: size.parse().unwrap_or(0),
                        modified: clock::millis(modified),
                    });
                }
            }
            if rows.len() == before || !text.contains("<IsTruncated>true</IsTruncated>") {
                rows.sort_by(|a, b| a.name.cmp(&b.name));
                return raw.with(rows);
            }
        }
    }

    fn monotonic(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn wait(&self, time: Duration) {
        let _ = crossbeam_channel::after(time).recv();
    }

    fn random(&self) -> u64 {
        let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
        high ^ low
    }
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    // a key of any length is accepted
    Hmac::<Sha256>::new_from_slice(key).map_or_else(
        |_| Vec::new(),
        |mac| mac.chain_update(text).finalize().into_bytes().to_vec(),
    )
}

/// Percent-encodes all but the unreserved characters of RFC 3986.
fn encode(text: &str, is_path: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) || is_path && b == b'/' {
            out.push(b as char);
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

fn between(text: &str, from: &str, to: &str) -> Option<String> {
    let rest = &text[text.find(from)? + from.len()..];
    Some(rest[..rest.find(to)?].to_string())
}

/// `20261129T100410Z`.
fn timestamp(millis: u64) -> String {
    let text = clock::rfc3339(clock::from_millis(millis));
    let seconds = text.split('.').next().unwrap_or_default();
    format!("{}Z", seconds.replace(['-', ':'], ""))
}

/// Reads the time of RFC 9110, section 5.6.7: `Sun, 29 Nov 2026 10:04:10 GMT`; milliseconds since 1970.
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let mut parts = text.split_whitespace().skip(1);
    let (day, month, year, time) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    let at: SystemTime = clock::parse_rfc3339(&format!("{year}-{month:02}-{day:0>2}T{time}Z"))?;
    Some(clock::millis(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example "GET Object" of "Signature Calculations for the Authorization Header".
    #[test]
    fn a_request_is_signed_as_in_the_manual() {
        let url = BucketUrl::parse("https://examplebucket.s3.amazonaws.com/b").unwrap();
        let key = AccessKey::parse("AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
            .unwrap();
        let s3 = S3::new(url, "us-east-1".into(), key, None);
        let condition = Some(("range", "bytes=0-9".to_string()));
        let request = UnsignedRequest {
            method: "GET",
            key: String::new(),
            query: Vec::new(),
            condition,
            body: b"",
        };
        let digest = Hash::of(b"").to_string();
        let signed = s3.authorization(&request, "/test.txt", "", "20130524T000000Z", &digest);
        let wants = "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
        assert!(signed.ends_with(wants), "{signed}");
    }

    #[test]
    fn times_are_written_and_read() {
        assert_eq!(timestamp(1_369_353_600_000), "20130524T000000Z");
        assert_eq!(timestamp(1_369_353_600_999), "20130524T000000Z");
        assert_eq!(
            http_date("Fri, 24 May 2013 00:00:01 GMT"),
            Some(1_369_353_601_000)
        );
        assert_eq!(http_date("Fri, 4 Foo 2013 00:00:01 GMT"), None);
        assert_eq!(encode("/a b/ü~*", true), "/a%20b/%C3%BC~%2A");
        assert_eq!(encode("a/b", false), "a%2Fb");
    }
}
