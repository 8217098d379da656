//! The address of a bucket and its access key, as settings name them.
//!
//! Nothing is sent from here.

/// The address of a bucket: `https://HOST/BUCKET[/PREFIX]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketUrl {
    /// `http` or `https`.
    pub scheme: String,
    /// With the port, if it has one.
    pub host: String,
    pub bucket: String,
    /// Empty, or with a slash at its end.
    pub prefix: String,
}

impl BucketUrl {
    /// The error is for the user.
    pub fn parse(text: &str) -> Result<BucketUrl, String> {
        let wrong = || {
            format!(
                "must be https://HOST/BUCKET or https://HOST/BUCKET/PREFIX, not \"{}\"",
                crate::wire::brief(text)
            )
        };
        let (scheme, rest) = text
            .trim_end_matches('/')
            .split_once("://")
            .ok_or_else(wrong)?;
        let (host, path) = rest.split_once('/').ok_or_else(wrong)?;
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        let is_plain = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        };
        let is_host = !host.is_empty()
            && host.parse::<ureq::http::uri::Authority>().is_ok()
            && !host.contains('@');
        if !["http", "https"].contains(&scheme)
            || !is_host
            || !is_plain(bucket)
            || !(prefix.is_empty()
                || prefix
                    .split('/')
                    .all(|part| is_plain(part) && part != "." && part != ".."))
        {
            return Err(wrong());
        }
        Ok(BucketUrl {
            scheme: scheme.into(),
            host: host.into(),
            bucket: bucket.into(),
            prefix: if prefix.is_empty() {
                String::new()
            } else {
                format!("{prefix}/")
            },
        })
    }
}

impl std::fmt::Display for BucketUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}/{}", self.scheme, self.host, self.bucket)?;
        if self.prefix.is_empty() {
            Ok(())
        } else {
            write!(f, "/{}", self.prefix.trim_end_matches('/'))
        }
    }
}

/// Checks the name of a region.
pub fn region(text: &str) -> Result<String, String> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        Ok(text.into())
    } else {
        Err(format!(
            "must be a name such as eu-central-1, not \"{}\"",
            crate::wire::brief(text)
        ))
    }
}

/// An access key: its id and its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessKey {
    pub id: String,
    pub secret: String,
}

impl AccessKey {
    /// Reads `ID:SECRET`, or the two separated by white space.
    pub fn parse(text: &str) -> Result<AccessKey, String> {
        let text = text.trim();
        let (id, secret) = text
            .split_once(|c: char| c == ':' || c.is_whitespace())
            .ok_or("must be the id of the access key, a colon and its secret")?;
        let (id, secret) = (id.trim(), secret.trim());
        let is_plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        if is_plain(id) && is_plain(secret) {
            Ok(AccessKey {
                id: id.into(),
                secret: secret.into(),
            })
        } else {
            Err("must be the id of the access key, a colon and its secret".into())
        }
    }
}

impl std::fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AccessKey({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_buckets() {
        let check = |text: &str, wants: Option<&str>| {
            let url = BucketUrl::parse(text).ok();
            assert_eq!(url.map(|url| url.to_string()).as_deref(), wants, "{text}");
        };
        check(
            "https://s3.eu-central-1.amazonaws.com/mine",
            Some("https://s3.eu-central-1.amazonaws.com/mine"),
        );
        check(
            "http://127.0.0.1:8333/mine/a/b/",
            Some("http://127.0.0.1:8333/mine/a/b"),
        );
        for bad in [
            "mine",
            "s3://mine",
            "ftp://h/b",
            "https://h",
            "https://h/",
            "https://u@h/b",
            "https://h/b/../c",
            "https://h/b c",
        ] {
            check(bad, None);
        }
        assert!(
            AccessKey::parse("AKID:se/cret+").is_ok()
                && AccessKey::parse("AKID\nse/cret\n").is_ok()
        );
        assert!(AccessKey::parse("AKID").is_err() && AccessKey::parse("AKID: ").is_err());
    }
}
