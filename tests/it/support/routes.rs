//! The routes of the hub, as its source lists them.

use std::path::Path;

/// Methods and paths, with `*` for a part that varies.
pub fn routes() -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/hub/routes.rs");
    let source = std::fs::read_to_string(path).unwrap();
    let quoted = |line: &str| -> Option<(String, String)> {
        let mut parts = line.trim().strip_prefix("(\"")?.split('"');
        Some((parts.next()?.to_string(), parts.nth(1)?.to_string()))
    };
    let routes: Vec<_> = source
        .lines()
        .filter(|line| line.contains("Route::"))
        .filter_map(quoted)
        .collect();
    assert!(routes.len() >= 30, "{routes:?}");
    routes
}
