//! The page's files, in the binary.

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use include_dir::{Dir, include_dir};

use crate::api::Problem;

/// Only our own files run, and nothing of anybody else's is loaded: what a visitor's prompt says can never become code.
const POLICY: &str = "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self' ws: wss:; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

static FILES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/page");

/// A file by its name; the page itself by `index.html`.
pub(crate) fn file(name: &str) -> Response {
    let kind = match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("json" | "webmanifest") => "application/json",
        _ => "application/octet-stream",
    };
    let Some(file) = FILES.get_file(name) else {
        let what = format!("the page has no file {name:?}");
        return Problem::new(StatusCode::NOT_FOUND, what, None).into_response();
    };
    let headers: [(HeaderName, &str); 6] = [
        (CONTENT_TYPE, kind),
        // A new version of the program has new files under the same names.
        (CACHE_CONTROL, "no-cache"),
        (HeaderName::from_static("content-security-policy"), POLICY),
        (HeaderName::from_static("x-content-type-options"), "nosniff"),
        // The page's address may hold the token.
        (HeaderName::from_static("referrer-policy"), "no-referrer"),
        (HeaderName::from_static("permissions-policy"), "camera=(self), display-capture=(self), microphone=()"),
    ];
    (headers, file.contents()).into_response()
}
