//! `server_url`: the hub, or several hubs of one bucket with commas between their URLs. Pure.
//!
//! A list stays one text: a key, a token and the state of a directory belong to the list, not to one of its hubs.

use super::values::{Parsed, url};
use crate::wire;

/// Hubs in a list, at most: each one that is dead costs a call its time to connect.
const MAX_HUBS: usize = 16;

/// Checks the URLs, and writes them as equal lists compare equal.
pub fn list(text: &str) -> Parsed<String> {
    let mut urls: Vec<String> = Vec::new();
    for part in text.split(',') {
        let url = url(part)?;
        if urls.contains(&url) {
            return Err(format!("names {} twice", wire::brief(&url)));
        }
        urls.push(url);
    }
    if urls.len() > MAX_HUBS {
        return Err(format!(
            "names {} hubs; at most {MAX_HUBS} can be used",
            urls.len()
        ));
    }
    Ok(urls.join(","))
}

/// The URLs of a checked list.
pub fn each(list: &str) -> impl Iterator<Item = &str> {
    list.split(',')
}

/// Whether one of the list is this, or the lists are equal.
pub fn names(list: &str, url: &str) -> bool {
    list == url || each(list).any(|each| each == url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_checked_url_by_url() {
        let check = |text: &str, wants: &str| assert_eq!(format!("{:?}", list(text)), wants);
        check("http://Hub:8080/", r#"Ok("http://hub:8080")"#);
        check(
            "http://b:1 ,\n http://A:2/",
            r#"Ok("http://b:1,http://a:2")"#,
        );
        check("http://a:1,HTTP://A:1/", r#"Err("names http://a:1 twice")"#);
        let why = |text: &str| list(text).unwrap_err();
        assert!(
            why("http://a:1,").contains("must be a URL"),
            "{}",
            why("http://a:1,")
        );
        assert!(why("http://a:1,b:2").contains("must begin with http://"));
        assert!(why("http://a:1 http://b:1").contains("must be a URL"));
        assert!(!why("http://a,http://u:pw-secret@b").contains("pw-secret"));
        let many: Vec<_> = (0..17).map(|n| format!("http://h{n}")).collect();
        assert!(why(&many.join(",")).contains("17 hubs"));
        assert!(list(&many[..16].join(",")).is_ok());
    }

    #[test]
    fn a_list_names_its_urls_and_itself() {
        let list = "http://a:1,http://b:2";
        assert!(names(list, "http://b:2") && names(list, list));
        assert!(!names(list, "http://a") && !names("http://a:1", list));
    }
}
