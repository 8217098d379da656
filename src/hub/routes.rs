//! The table of routes, with the longest body of each.
//!
//! Pure. The gate and the workers use the same table. It knows neither callers nor effects.

use super::http::Reply;
use super::rights::Right;
use crate::wire::{self, approvals, files, peers, revision};

/// Bytes of an upload besides the file: parts, boundaries, metadata.
const MAX_FORM_BYTES: u64 = 64 * 1024;
/// Bytes of `{"sha256":"…","size":8388608},`, with some room for spaces.
const CHUNK_TEXT: u64 = 100;
/// Bytes of one item of a fetch, with some room for spaces.
const ITEM_TEXT: u64 = 160;
/// Bytes of `[18446744073709551615,"9f3ac04be1d2a377"],`, with some room for spaces.
const POINT_TEXT: u64 = 64;

/// The route of a request.
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
    History,
    ListFiles,
    UploadFile,
    CommitFile,
    Changes,
    Common,
    BatchFiles,
    FetchFiles,
    GetFile,
    DeleteFile,
    Download,
    FileChunks,
    Versions,
    RestoreFile,
    FilePieces,
    FileParts,
    ApproveDeletes,
    ApprovedDeletes,
    MissingChunks,
    PutChunk,
    GetChunk,
    AskKey,
    AnnounceFile,
    UpcomingChunks,
    UpcomingContent,
    Backup,
    Join,
    JoinRequests,
    AcceptJoin,
    Keys,
    PageToken,
    Peer,
}

impl Route {
    /// Bytes of a body at most; `max_upload` is the setting. Some programs send a few with a GET, which are ignored.
    pub fn body_limit(self, max_upload: u64) -> u64 {
        match self {
            Route::PostMessages => wire::MAX_BATCH_BYTES as u64,
            Route::UploadFile => max_upload + MAX_FORM_BYTES,
            Route::CommitFile | Route::MissingChunks | Route::AnnounceFile => {
                files::MOST_CHUNKS as u64 * CHUNK_TEXT + MAX_FORM_BYTES
            }
            Route::BatchFiles => files::BATCH_BYTES,
            Route::FetchFiles => files::BATCH_FILES as u64 * ITEM_TEXT,
            Route::Common => revision::POINTS as u64 * POINT_TEXT,
            Route::PutChunk => files::SINGLE,
            Route::ApproveDeletes | Route::ApprovedDeletes => approvals::MAX_LIST_BYTES as u64,
            Route::Peer => peers::MAX_NEWS_BYTES as u64,
            _ => 4096,
        }
    }

    /// Whether a long body is read while it arrives; its reader counts the part that is in memory.
    pub fn streams(self) -> bool {
        use Route::{
            AnnounceFile, BatchFiles, CommitFile, Common, FetchFiles, MissingChunks, PutChunk,
            UploadFile,
        };
        matches!(
            self,
            UploadFile
                | PutChunk
                | CommitFile
                | MissingChunks
                | AnnounceFile
                | BatchFiles
                | FetchFiles
                | Common
        )
    }

    /// The right that its caller needs. Answers also leave out what the caller may not read.
    pub fn needs(self) -> Right {
        match self {
            Route::Page | Route::Health | Route::Login | Route::Join => Right::Any,
            // the answer has only hosts, queues, counts and events that the caller may see
            Route::Metrics | Route::GetHosts | Route::GetHost | Route::Events => Right::Any,
            Route::PostMessages => Right::Send,
            Route::GetMessages => Right::Receive,
            Route::PutHost | Route::DeleteHost | Route::RebindHost => Right::Admin,
            Route::Backup | Route::Keys | Route::PageToken => Right::Admin,
            Route::Peer => Right::Hub,
            Route::JoinRequests | Route::AcceptJoin | Route::ApproveDeletes => Right::Admin,
            Route::History | Route::ListFiles | Route::Changes | Route::Common => Right::ReadFiles,
            Route::FetchFiles | Route::GetFile | Route::Download => Right::ReadFiles,
            Route::FileChunks | Route::Versions | Route::GetChunk => Right::ReadFiles,
            Route::FilePieces | Route::FileParts => Right::ReadFiles,
            Route::UpcomingChunks | Route::UpcomingContent => Right::ReadFiles,
            // a client that may no longer write can ask for the outcome of its last changes
            Route::AskKey | Route::ApprovedDeletes => Right::ReadFiles,
            Route::UploadFile | Route::CommitFile | Route::BatchFiles => Right::WriteFiles,
            Route::DeleteFile | Route::RestoreFile => Right::WriteFiles,
            Route::MissingChunks | Route::PutChunk | Route::AnnounceFile => Right::WriteFiles,
        }
    }

    /// The name in metrics.
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
            Route::History => "history",
            Route::ListFiles => "list_files",
            Route::UploadFile => "upload_file",
            Route::CommitFile => "commit_file",
            Route::Changes => "changes",
            Route::Common => "common",
            Route::BatchFiles => "batch_files",
            Route::FetchFiles => "fetch_files",
            Route::GetFile => "get_file",
            Route::DeleteFile => "delete_file",
            Route::Download => "download",
            Route::FileChunks => "file_chunks",
            Route::Versions => "versions",
            Route::RestoreFile => "restore_file",
            Route::FilePieces => "file_pieces",
            Route::FileParts => "file_parts",
            Route::ApproveDeletes => "approve_deletes",
            Route::ApprovedDeletes => "approved_deletes",
            Route::MissingChunks => "missing_chunks",
            Route::PutChunk => "put_chunk",
            Route::GetChunk => "get_chunk",
            Route::AskKey => "ask_key",
            Route::AnnounceFile => "announce_file",
            Route::UpcomingChunks => "upcoming_chunks",
            Route::UpcomingContent => "upcoming_content",
            Route::Backup => "backup",
            Route::Join => "join",
            Route::JoinRequests => "join_requests",
            Route::AcceptJoin => "accept_join",
            Route::Keys => "keys",
            Route::PageToken => "page_token",
            Route::Peer => "peer",
        }
    }
}

/// `*` matches one non-empty part of a path. The first match wins.
#[rustfmt::skip]
const TABLE: &[(&str, &str, Route)] = &[
    ("GET",    "/",                      Route::Page),
    ("GET",    "/api/health",            Route::Health),
    ("POST",   "/api/auth/login",        Route::Login),
    ("GET",    "/metrics",               Route::Metrics),
    ("POST",   "/api/messages",          Route::PostMessages),
    ("GET",    "/api/messages",          Route::GetMessages),
    ("GET",    "/api/hosts",             Route::GetHosts),
    ("GET",    "/api/hosts/*",           Route::GetHost),
    ("PUT",    "/api/hosts/*",           Route::PutHost),
    ("DELETE", "/api/hosts/*",           Route::DeleteHost),
    ("POST",   "/api/hosts/*/rebind",    Route::RebindHost),
    ("GET",    "/api/events",            Route::Events),
    ("GET",    "/api/events/history",    Route::History),
    ("GET",    "/api/files",             Route::ListFiles),
    ("PUT",    "/api/files/upload",      Route::UploadFile),
    ("PUT",    "/api/files/commit",      Route::CommitFile),
    ("GET",    "/api/files/changes",     Route::Changes),
    ("POST",   "/api/files/common",      Route::Common),
    ("POST",   "/api/files/batch",       Route::BatchFiles),
    ("POST",   "/api/files/fetch",       Route::FetchFiles),
    ("POST",   "/api/files/approvals",   Route::ApproveDeletes),
    ("POST",   "/api/files/approved",    Route::ApprovedDeletes),
    ("GET",    "/api/files/*",           Route::GetFile),
    ("DELETE", "/api/files/*",           Route::DeleteFile),
    ("GET",    "/api/files/*/download",  Route::Download),
    ("GET",    "/api/files/*/chunks",    Route::FileChunks),
    ("GET",    "/api/files/*/versions",  Route::Versions),
    ("POST",   "/api/files/*/restore",   Route::RestoreFile),
    ("POST",   "/api/files/*/pieces",    Route::FilePieces),
    ("POST",   "/api/files/*/parts",     Route::FileParts),
    ("POST",   "/api/chunks/missing",    Route::MissingChunks),
    ("PUT",    "/api/chunks/*",          Route::PutChunk),
    ("GET",    "/api/chunks/*",          Route::GetChunk),
    ("POST",   "/api/upcoming",          Route::AnnounceFile),
    ("GET",    "/api/upcoming/*/chunks", Route::UpcomingChunks),
    ("GET",    "/api/upcoming/*/content", Route::UpcomingContent),
    ("GET",    "/api/idempotency/*",     Route::AskKey),
    ("POST",   "/api/hub/backup",        Route::Backup),
    ("POST",   "/api/join",              Route::Join),
    ("GET",    "/api/join/requests",     Route::JoinRequests),
    ("POST",   "/api/join/accept",       Route::AcceptJoin),
    ("GET",    "/api/hub/keys",          Route::Keys),
    ("POST",   "/api/hub/page",          Route::PageToken),
    ("POST",   "/api/hub/peer",          Route::Peer),
];

/// The route, or the answer 404 or 405. HEAD is GET.
pub fn find(method: &str, path: &str) -> Result<Route, Reply> {
    let method = if method == "HEAD" { "GET" } else { method };
    let here = || {
        TABLE
            .iter()
            .filter(|(_, pattern, _)| matches(pattern, path))
    };
    if let Some((_, _, route)) = here().find(|(m, _, _)| *m == method) {
        return Ok(*route);
    }
    let allowed: Vec<&str> = here().map(|(m, _, _)| *m).collect();
    if allowed.is_empty() {
        Err(Reply::error(
            404,
            format!("there is nothing at {}", wire::brief(path)),
        ))
    } else {
        let allowed = allowed.join(", ");
        Err(
            Reply::error(405, format!("{} takes {allowed} only", wire::brief(path)))
                .header("Allow", allowed),
        )
    }
}

/// Whether the path needs no key, even for an error.
pub fn is_public(path: &str) -> bool {
    matches!(path, "/" | "/api/health" | "/api/auth/login" | "/api/join")
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
                Err(reply) => format!(
                    "{} {}",
                    reply.status,
                    reply.headers.first().map_or("", |(_, allow)| allow)
                ),
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
        for path in [
            "",
            "/api",
            "/api/",
            "/api/health/",
            "/API/health",
            "//api/health",
            "/api/hosts/",
            "/api/hosts/a/b",
            "/api/hosts*",
        ] {
            check("GET", path, "404 ");
        }
        check("GET", "/api/files/changes", "changes");
        check("GET", "/api/files/x", "get_file");
        check("DELETE", "/api/files/changes", "delete_file");
        check("GET", "/api/files/upload", "get_file");
        check("POST", "/api/chunks/missing", "missing_chunks");
        check("PUT", "/api/files/x/download", "405 GET");
        check("GET", "/api/files//download", "404 ");
        for (i, (method, pattern, route)) in TABLE.iter().enumerate() {
            assert!(
                TABLE[i + 1..]
                    .iter()
                    .all(|(m, p, r)| (m, p) != (method, pattern) && r != route)
            );
        }
    }
}
