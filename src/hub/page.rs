//! `GET /`: a page that shows the state of the hub. It is one file, sends requests to this hub only, and changes nothing.
//!
//! It contains no data: the page requests them with the key that its reader enters, which it keeps in memory only.

use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use super::http::Reply;
use super::token;

const PAGE: &str = include_str!("page.html");

/// The page. Its policy allows its own style and script and requests to this hub, and nothing else.
pub fn page() -> Reply {
    static POLICY: OnceLock<String> = OnceLock::new();
    let policy = POLICY.get_or_init(|| {
        let (style, script) = (
            hash(within("<style>", "</style>")),
            hash(within("<script>", "</script>")),
        );
        format!(
            "default-src 'none'; connect-src 'self'; style-src '{style}'; script-src '{script}'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
    });
    Reply::text(200, "text/html; charset=utf-8", PAGE.to_string())
        .header("Content-Security-Policy", policy)
        .header("Referrer-Policy", "no-referrer")
        .header("Cache-Control", "no-cache")
}

fn within(begin: &str, end: &str) -> &'static str {
    PAGE.split_once(begin)
        .and_then(|(_, rest)| rest.split_once(end))
        .map_or("", |(inner, _)| inner)
}

/// A hash source (CSP level 2, section 4.2).
fn hash(text: &str) -> String {
    format!(
        "sha256-{}=",
        token::encode(&Sha256::digest(text))
            .replace('-', "+")
            .replace('_', "/")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_names_what_is_in_the_page() {
        // echo -n abc | openssl dgst -sha256 -binary | base64
        assert_eq!(
            hash("abc"),
            "sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="
        );
        assert!(
            within("<style>", "</style>").contains("body {")
                && within("<script>", "</script>").ends_with("show();\n")
        );
        // text that would need an exception in the policy, or would put data into markup
        for bad in [
            "style=",
            "onclick",
            "http:",
            "https:",
            "innerHTML",
            "<link",
            "<img",
            "eval(",
        ] {
            assert!(!PAGE.contains(bad), "{bad}");
        }
    }
}
