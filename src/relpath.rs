//! Names of files as they are sent: relative, with slashes, UTF-8. Decides which are allowed.
//!
//! Pure, and lexical only: whether such a name is a link on a disk, for example, is checked where
//! it is opened.

/// Maximum bytes of a whole name.
pub const MAX_PATH_BYTES: usize = 1024;
/// Maximum bytes of one component: the limit of Linux file systems (path_resolution(7)).
pub const MAX_COMPONENT_BYTES: usize = 255;
/// The program's own directory in the root of a synced directory: marker, lock, trash.
pub const OWN_DIR: &str = ".mesync";
const TEMPORARY_BEGINS: &str = ".mesync-";
const TEMPORARY_ENDS: &str = ".tmp";

/// Decides whether a file may have this name; the error is for the user.
pub fn check(full: &str) -> Result<(), String> {
    let shown = || crate::error::brief(full);
    if full.is_empty() {
        return Err("the name is empty".into());
    }
    if full.len() > MAX_PATH_BYTES {
        return Err(format!(
            "the name is {} bytes long, {MAX_PATH_BYTES} are the most: \"{}\"",
            full.len(),
            shown()
        ));
    }
    if full.contains('\0') {
        return Err(format!("the name contains a NUL: \"{}\"", shown()));
    }
    if full.starts_with('/') {
        return Err(format!("the name must be relative: \"{}\"", shown()));
    }
    full.split('/').try_for_each(|component| match component {
        "" => Err(format!("the name has an empty component: \"{}\"", shown())),
        "." | ".." => Err(format!(
            "the name leads elsewhere with \"{component}\": \"{}\"",
            shown()
        )),
        _ if component.len() > MAX_COMPONENT_BYTES => Err(format!(
            "a component of the name is {} bytes long, {MAX_COMPONENT_BYTES} are the most: \"{}\"",
            component.len(),
            crate::error::brief(component)
        )),
        _ if is_own(component) => Err(format!(
            "mesync keeps such names for itself: \"{}\"",
            shown()
        )),
        _ => Ok(()),
    })
}

/// Whether a component is the program's own directory or a temporary file, in any case of letters:
/// never synced. A disk that folds names takes `.MESYNC` for `.mesync`.
pub fn is_own(component: &str) -> bool {
    let name = component.as_bytes();
    let begins = |with: &str| {
        name.get(..with.len())
            .is_some_and(|n| n.eq_ignore_ascii_case(with.as_bytes()))
    };
    let ends = |with: &str| {
        name.len() >= with.len()
            && name[name.len() - with.len()..].eq_ignore_ascii_case(with.as_bytes())
    };
    component.eq_ignore_ascii_case(OWN_DIR) || begins(TEMPORARY_BEGINS) && ends(TEMPORARY_ENDS)
}

/// Whether a name was made by [`temporary`].
pub fn is_temporary(component: &str) -> bool {
    component.starts_with(TEMPORARY_BEGINS) && component.ends_with(TEMPORARY_ENDS)
}

/// `.mesync-<random>.tmp`: the name of an unfinished file.
pub fn temporary(random: u64) -> String {
    format!("{TEMPORARY_BEGINS}{random:016x}{TEMPORARY_ENDS}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_or_are_reserved_are_refused() {
        let check = |name: &str, why: Option<&str>| match (check(name), why) {
            (Ok(()), None) => {}
            (Err(got), Some(why)) if got.contains(why) => {}
            (got, why) => panic!("{name:?}: {got:?}, not {why:?}"),
        };
        for fine in [
            "a",
            "a/b",
            ".hidden",
            "...",
            "a b",
            "a\\b",
            "a\nb",
            "-rf",
            "%20",
            "é",
            "😀",
            "..a",
            ".mesyncignore",
            ".mesync-x",
        ] {
            check(fine, None);
        }
        check(&format!("{}/{}", "d".repeat(255), "f".repeat(255)), None);
        check("", Some("empty"));
        check("/a", Some("relative"));
        check("a//b", Some("empty component"));
        check("a/", Some("empty component"));
        check("..", Some("elsewhere"));
        check("a/../b", Some("elsewhere"));
        check("./a", Some("elsewhere"));
        check("a\0", Some("NUL"));
        check(&"x".repeat(256), Some("255 are the most"));
        check(&"x/".repeat(600), Some("1024 are the most"));
        check(".mesync/id", Some("for itself"));
        check(".MESYNC/id", Some("for itself"));
        check("d/.MeSync", Some("for itself"));
        check(&temporary(7).to_uppercase(), Some("for itself"));
        check(&format!("d/{}", temporary(7)), Some("for itself"));
    }
}
