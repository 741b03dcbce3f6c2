//! Who may ask: tokens, origins, hosts.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;
use tokio::time::timeout;

use crate::api::Problem;
use crate::server::Shared;

/// Whether a path is open without a token: that the server runs is no secret, nor are the page's modules and style, which a
/// browser asks for without one.
fn is_open(path: &str) -> bool {
    path == "/healthz" || path.starts_with("/page/")
}

/// Longest body: a prompt of 10 000 letters, escaped, and every other parameter.
pub(crate) const MOST_BODY: usize = 256 << 10;

/// Longest refusal that axum words.
const MOST_WORDS: usize = 64 << 10;

/// A request that is not answered by then, because its body never comes, is given up.
const WHOLE: Duration = Duration::from_secs(20);

/// What a request must show.
#[derive(Clone)]
pub(crate) struct Guard {
    token: Option<String>,
    /// Whether only this machine can reach the server.
    is_loopback: bool,
}

impl Guard {
    pub(crate) fn new(token: Option<String>, bind: SocketAddr) -> Self {
        Self { token, is_loopback: bind.ip().is_loopback() }
    }

    fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        // A name that some page's owner points to this machine (DNS rebinding) would make a foreign page one of ours.
        if self.is_loopback && !host.is_some_and(is_this_machine) {
            return Err(Problem::new(StatusCode::FORBIDDEN, "this server answers to localhost only", None));
        }
        // Browsers name the page that asks; programs name none.
        if let Some(origin) = headers.get(ORIGIN) {
            let authority = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, rest)| rest);
            if authority.is_none() || authority != host {
                let hint = "open the page at the server's own address";
                return Err(Problem::new(StatusCode::FORBIDDEN, "another page may not use this server", Some(hint)));
            }
        }
        match &self.token {
            Some(token) if !is_open(uri.path()) && !shows(token, uri, headers) => {
                let hint = "the address that the server printed when it started has the token";
                Err(Problem::new(StatusCode::UNAUTHORIZED, "a token is needed", Some(hint)))
            }
            _ => Ok(()),
        }
    }
}

/// Refuses what the guard refuses, before anything else is done.
pub(crate) async fn guard(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    match shared.guard.check(request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

/// Refuses bodies that are too long before they are sent, and requests that never end.
pub(crate) async fn bounds(request: Request, next: Next) -> Response {
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > MOST_BODY as u64) {
        let what = format!("a body has up to {MOST_BODY} bytes");
        return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, what, None).into_response();
    }
    match timeout(WHOLE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(StatusCode::REQUEST_TIMEOUT, "the request took too long", None).into_response(),
    }
}

/// Puts refusals that axum words itself, of a method, a query or a path, into the form of all others.
pub(crate) async fn worded(request: Request, next: Next) -> Response {
    let asked = format!("{} does nothing at {}", request.method(), request.uri().path());
    let response = next.run(request).await;
    let is_ours = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    let status = response.status();
    if is_ours || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let text = to_bytes(body, MOST_WORDS).await.ok().and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
    let what = match text.filter(|text| !text.is_empty()) {
        Some(text) => text,
        None if status == StatusCode::METHOD_NOT_ALLOWED => asked,
        None => status.canonical_reason().unwrap_or("refused").to_lowercase(),
    };
    let problem = Problem::new(status, what, Some("GET /api/v1/openapi.json lists what there is")).into_response();
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.extend(problem.headers().clone());
    // What else was told, such as the methods that there are, stays.
    Response::from_parts(parts, problem.into_body())
}

/// Whether the request shows the token: as `Authorization: Bearer`, or as `?token=` where a browser cannot set headers.
/// Comparing takes as long whatever is shown.
fn shows<'a>(token: &str, uri: &'a Uri, headers: &'a HeaderMap) -> bool {
    let bearer = |value: &'a HeaderValue| {
        let (scheme, shown) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("Bearer").then(|| shown.trim_start())
    };
    let header = headers.get(AUTHORIZATION).and_then(bearer);
    let query = uri.query().unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("token="));
    header.or(query).is_some_and(|shown| shown.as_bytes().ct_eq(token.as_bytes()).into())
}

/// Whether a Host header names this machine: `localhost` or a loopback address, with any port.
fn is_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(address, _)| address),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(guard: &Guard, uri: &str, headers: &[(&'static str, &str)]) -> Result<(), StatusCode> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        guard.check(&uri.parse().unwrap(), &map).map_err(|problem| problem.status)
    }

    #[test]
    fn on_loopback_only_this_machine_by_its_own_names_is_served() {
        let guard = Guard::new(None, "127.0.0.1:7860".parse().unwrap());
        for host in ["localhost", "localhost:7860", "127.0.0.1:7860", "[::1]:7860", "LOCALHOST:1"] {
            assert_eq!(check(&guard, "/", &[("host", host)]), Ok(()), "{host}");
        }
        for host in ["evil.example", "evil.example:7860", "localhost.evil.example", "10.0.0.1", ""] {
            assert_eq!(check(&guard, "/", &[("host", host)]), Err(StatusCode::FORBIDDEN), "{host}");
        }
        assert_eq!(check(&guard, "/", &[]), Err(StatusCode::FORBIDDEN));
    }

    #[test]
    fn foreign_pages_are_refused() {
        let guard = Guard::new(None, "0.0.0.0:80".parse().unwrap());
        let with = |origin| check(&guard, "/api/v1/stream", &[("host", "cam.example:80"), ("origin", origin)]);
        assert_eq!(with("http://cam.example:80"), Ok(()));
        for origin in ["http://evil.example", "null", "http://cam.example:81", "http://cam.example:80.evil"] {
            assert_eq!(with(origin), Err(StatusCode::FORBIDDEN), "{origin}");
        }
    }

    #[test]
    fn a_token_is_wanted_everywhere_but_for_health() {
        let guard = Guard::new(Some("secret".into()), "0.0.0.0:80".parse().unwrap());
        let refused = Err(StatusCode::UNAUTHORIZED);
        for (uri, headers, expected) in [
            ("/", vec![], refused),
            ("/?token=wrong", vec![], refused),
            ("/?token=secre", vec![], refused),
            ("/?x=1&token=secret", vec![], Ok(())),
            ("/metrics", vec![("authorization", "Bearer secret")], Ok(())),
            ("/metrics", vec![("authorization", "bearer secret")], Ok(())),
            ("/metrics", vec![("authorization", "Basic secret")], refused),
            ("/metrics", vec![("authorization", "secret")], refused),
            ("/healthz", vec![], Ok(())),
            ("/page/main.js", vec![], Ok(())),
            ("/pages", vec![], refused),
        ] {
            assert_eq!(check(&guard, uri, &headers), expected, "{uri} {headers:?}");
        }
    }
}
