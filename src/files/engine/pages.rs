//! Reads the state page by page: the only loop over rows.

use super::traits::{CallResult, Fault, Rows, State};

/// Rows read from the state at once.
const ROWS_PER_READ: usize = 256;

/// Calls `visit` with each page that `read` returns (rows after a path, with a limit), until it
/// returns `false`.
pub fn each_page<T, E: From<Fault>>(
    read: impl Fn(&str, usize) -> CallResult<Vec<T>>,
    path: impl Fn(&T) -> &str,
    mut visit: impl FnMut(&[T]) -> Result<bool, E>,
) -> Result<(), E> {
    let mut after = String::new();
    loop {
        let page = read(&after, ROWS_PER_READ)?;
        let is_full = page.len() == ROWS_PER_READ;
        if page.is_empty() || !visit(&page)? {
            return Ok(());
        }
        match page.last() {
            Some(last) if is_full => after = path(last).to_string(),
            _ => return Ok(()),
        }
    }
}

/// Pages of the rows below a directory ("" is the root). The caller may commit between pages.
pub fn pages_below<E: From<Fault>>(
    state: &dyn State,
    dir: &str,
    visit: impl FnMut(&[(String, Rows)]) -> Result<bool, E>,
) -> Result<(), E> {
    let read = |after: &str, most| state.below(dir, after, most);
    each_page(read, |(path, _)| path, visit)
}

/// The rows below a directory one by one, until `visit` returns `false`.
pub fn each_below<E: From<Fault>>(
    state: &dyn State,
    dir: &str,
    mut visit: impl FnMut(&str, &Rows) -> Result<bool, E>,
) -> Result<(), E> {
    pages_below(state, dir, |page| {
        for (path, rows) in page {
            if !visit(path, rows)? {
                return Ok(false);
            }
        }
        Ok(true)
    })
}
