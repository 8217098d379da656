//! Which requests there are, and how long a body each may have.
//!
//! Pure. It does not know who asks, nor what is done: the gate and the workers look here with the same eyes.

use super::http::Reply;
use crate::wire;

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    Page,
    Health,
    Login,
    Metrics,
    PostMessages,
    GetMessages,
    GetHosts,
    GetHost,
    PutHost,
    DeleteHost,
    RebindHost,
    Events,
}

impl Route {
    /// Bytes of a body, at most. Some programs send a few with a GET; they are ignored.
    pub fn body_limit(self) -> u64 {
        match self {
            Route::PostMessages => wire::MAX_BATCH_BYTES as u64,
            _ => 4096,
        }
    }

    /// For the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Route::Page => "page",
            Route::Health => "health",
            Route::Login => "login",
            Route::Metrics => "metrics",
            Route::PostMessages => "post_messages",
            Route::GetMessages => "get_messages",
            Route::GetHosts => "get_hosts",
            Route::GetHost => "get_host",
            Route::PutHost => "put_host",
            Route::DeleteHost => "delete_host",
            Route::RebindHost => "rebind_host",
            Route::Events => "events",
        }
    }
}

/// `*` stands for one part of a path that is not empty.
#[rustfmt::skip]
const TABLE: &[(&str, &str, Route)] = &[
    ("GET",    "/",                   Route::Page),
    ("GET",    "/api/health",         Route::Health),
    ("POST",   "/api/auth/login",     Route::Login),
    ("GET",    "/metrics",            Route::Metrics),
    ("POST",   "/api/messages",       Route::PostMessages),
    ("GET",    "/api/messages",       Route::GetMessages),
    ("GET",    "/api/hosts",          Route::GetHosts),
    ("GET",    "/api/hosts/*",        Route::GetHost),
    ("PUT",    "/api/hosts/*",        Route::PutHost),
    ("DELETE", "/api/hosts/*",        Route::DeleteHost),
    ("POST",   "/api/hosts/*/rebind", Route::RebindHost),
    ("GET",    "/api/events",         Route::Events),
];

/// The route, or the answer 404 or 405. HEAD is GET.
pub fn find(method: &str, path: &str) -> Result<Route, Reply> {
    let method = if method == "HEAD" { "GET" } else { method };
    let here = || TABLE.iter().filter(|(_, pattern, _)| matches(pattern, path));
    if let Some((_, _, route)) = here().find(|(m, _, _)| *m == method) {
        return Ok(*route);
    }
    let allowed: Vec<&str> = here().map(|(m, _, _)| *m).collect();
    match allowed.is_empty() {
        true => Err(Reply::error(404, format!("there is nothing at {}", wire::brief(path)))),
        false => {
            let allowed = allowed.join(", ");
            Err(Reply::error(405, format!("{} takes {allowed} only", wire::brief(path))).header("Allow", allowed))
        }
    }
}

/// Where nobody needs a key, whatever is answered.
pub fn is_public(path: &str) -> bool {
    matches!(path, "/" | "/api/health" | "/api/auth/login")
}

fn matches(pattern: &str, path: &str) -> bool {
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some("*"), Some(part)) if !part.is_empty() => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_one_route_or_an_answer() {
        let check = |method: &str, path: &str, wants: &str| {
            let got = match find(method, path) {
                Ok(route) => route.name().to_string(),
                Err(reply) => format!("{} {}", reply.status, reply.headers.first().map_or("", |(_, allow)| allow)),
            };
            assert_eq!(got, wants, "{method} {path}");
        };
        check("GET", "/", "page");
        check("POST", "/", "405 GET");
        check("GET", "/api/health", "health");
        check("HEAD", "/api/health", "health");
        check("GET", "/api/auth/login", "405 POST");
        check("DELETE", "/api/messages", "405 POST, GET");
        check("PUT", "/api/hosts/web-1", "put_host");
        check("POST", "/api/hosts/web-1", "405 GET, PUT, DELETE");
        check("POST", "/api/hosts/web-1/rebind", "rebind_host");
        for path in ["", "/api", "/api/", "/api/health/", "/API/health", "//api/health", "/api/hosts/", "/api/hosts/a/b", "/api/hosts*"] {
            check("GET", path, "404 ");
        }
        for (i, (method, pattern, route)) in TABLE.iter().enumerate() {
            assert!(TABLE[i + 1..].iter().all(|(m, p, r)| (m, p) != (method, pattern) && r != route));
        }
    }
}
