//! WHIP and WHEP: peers publish and watch over WebRTC, without the page.
//!
//! A peer posts its offer and gets the answer; all addresses are in them, so that nothing comes after (no trickle ICE: PATCH is
//! refused). Who publishes has a session like a page's, on a place like a page's, until he ends it, falls silent, or vanishes.

pub(crate) mod whep;
pub(crate) mod whip;

use std::time::Duration;

use axum::extract::State;
use axum::http::header::{ALLOW, CONTENT_TYPE, HeaderName, LINK, LOCATION, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use livediffusion_io::{ErrorKind, IoError};

use crate::api::{Answer, Problem};
use crate::server::Shared;

/// The type of session descriptions.
const SDP: &str = "application/sdp";

/// Longest offer, as the description's reader takes it. Browsers' offers of every codec that they know have 10 kB.
const MOST_OFFER: usize = 64 << 10;

/// How often it is looked whether a peer is still there.
const LOOK: Duration = Duration::from_millis(250);

/// Seconds after which somebody who found no place may ask again.
const AGAIN: u32 = 5;

/// What may be posted, and where peers learn the address by which they are seen.
pub(crate) async fn options(State(shared): State<Shared>) -> Response {
    let accept = [(HeaderName::from_static("accept-post"), SDP), (ALLOW, "POST, DELETE, OPTIONS")];
    (StatusCode::NO_CONTENT, accept, ice_server(&shared)).into_response()
}

/// The STUN server as RFC 9725 tells of it.
fn ice_server(shared: &Shared) -> HeaderMap {
    link_to(shared.reach.stun_server.as_deref())
}

fn link_to(stun_server: Option<&str>) -> HeaderMap {
    let stun = stun_server.and_then(|stun| stun.strip_prefix("stun://"));
    let value = stun.and_then(|host| HeaderValue::try_from(format!("<stun:{host}>; rel=\"ice-server\"")).ok());
    value.into_iter().map(|value| (LINK, value)).collect()
}

/// The body as text, if it is what it must be.
fn offer(headers: &HeaderMap, body: &Bytes) -> Answer<String> {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(SDP) {
        let what = format!("an offer is {SDP}, not {kind:?}");
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, what, None));
    }
    if body.len() > MOST_OFFER {
        let what = format!("an offer has up to {MOST_OFFER} bytes, not {}", body.len());
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, what, None));
    }
    let text = std::str::from_utf8(body).map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "it is no text", None))?;
    Ok(text.to_owned())
}

/// The answer to an offer. Whoever showed the token in the address needs it in the next one, too.
fn created(shared: &Shared, path: &str, token: Option<&str>, answer: String) -> Response {
    let location = token.map_or_else(|| path.to_owned(), |token| format!("{path}?token={token}"));
    (StatusCode::CREATED, [(CONTENT_TYPE, SDP), (LOCATION, &location)], ice_server(shared), answer).into_response()
}

/// No place is free.
fn busy(what: String) -> Response {
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, what, Some("ask again when somebody has gone"));
    (([(RETRY_AFTER, HeaderValue::from(AGAIN))]), problem).into_response()
}

impl From<IoError> for Problem {
    fn from(error: IoError) -> Self {
        let status = match error.kind() {
            ErrorKind::Usage => StatusCode::BAD_REQUEST,
            ErrorKind::Missing => StatusCode::NOT_IMPLEMENTED,
            ErrorKind::Runtime => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string(), error.hint().as_deref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stun_server_is_told_as_a_link() {
        assert!(link_to(None).is_empty());
        let headers = link_to(Some("stun://stun.example.org:3478"));
        assert_eq!(headers[LINK], "<stun:stun.example.org:3478>; rel=\"ice-server\"");
    }

    #[test]
    fn only_session_descriptions_are_offers() {
        let read = |kind: &'static str| {
            let headers = [(CONTENT_TYPE, HeaderValue::from_static(kind))].into_iter().collect();
            offer(&headers, &Bytes::from_static(b"v=0")).map_err(|problem| problem.status)
        };
        assert_eq!(
            (read("application/sdp"), read("Application/SDP; charset=utf-8")),
            (Ok("v=0".into()), Ok("v=0".into()))
        );
        assert_eq!(read("application/json"), Err(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        assert!(offer(&HeaderMap::new(), &Bytes::new()).is_err());
        let headers = [(CONTENT_TYPE, HeaderValue::from_static(SDP))].into_iter().collect();
        let refused = offer(&headers, &Bytes::from(vec![b'v'; MOST_OFFER + 1])).map_err(|problem| problem.status);
        assert_eq!(refused, Err(StatusCode::PAYLOAD_TOO_LARGE));
    }
}
