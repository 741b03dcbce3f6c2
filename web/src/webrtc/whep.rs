//! `/whep`: a peer watches a session.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use livediffusion_io::Viewer;
use livediffusion_pipeline::stats::Clock;
use serde::Deserialize;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval};

use super::{LOOK, busy, created, offer};
use crate::api::{Answer, Problem, session};
use crate::server::{Shared, random_id};
use crate::session::{Session, Source};

/// Viewers of a session. Each has an encoder of its own.
const MOST_VIEWERS: usize = 8;

#[derive(Deserialize)]
pub(crate) struct Shown {
    token: Option<String>,
}

/// Watches the session that a peer published to last; where none does, the only session.
pub(crate) async fn watch_newest(
    State(shared): State<Shared>,
    Query(shown): Query<Shown>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer<Response> {
    let session = newest(&shared)?;
    admit(&shared, &session, shown, offer(&headers, &body)?).await
}

/// Watches a session.
pub(crate) async fn watch(
    State(shared): State<Shared>,
    Path(id): Path<String>,
    Query(shown): Query<Shown>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer<Response> {
    let session = session(&shared, &id)?;
    admit(&shared, &session, shown, offer(&headers, &body)?).await
}

/// Ends a viewer's watching.
pub(crate) async fn end(State(shared): State<Shared>, Path((id, viewer)): Path<(String, String)>) -> Answer<Response> {
    if session(&shared, &id)?.audience.leave(&viewer) {
        return Ok(StatusCode::OK.into_response());
    }
    Err(Problem::new(StatusCode::NOT_FOUND, format!("there is no viewer {viewer:?}"), None))
}

fn newest(shared: &Shared) -> Answer<Arc<Session>> {
    let sessions = shared.line.sessions();
    let published = sessions.iter().filter(|session| session.source == Source::Whip);
    let newest = published.min_by_key(|session| session.clock.now());
    if let Some(session) = newest.or(sessions.first().filter(|_| sessions.len() == 1)) {
        return Ok(Arc::clone(session));
    }
    let what = format!("nobody publishes, and there are {} sessions", sessions.len());
    Err(Problem::new(StatusCode::NOT_FOUND, what, Some("name one: /whep/ID; GET /api/v1/sessions lists them")))
}

async fn admit(shared: &Shared, session: &Arc<Session>, shown: Shown, offer: String) -> Answer<Response> {
    Viewer::check_offer(&offer)?;
    let no_id = |_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the system has no randomness", None);
    let name = random_id().map_err(no_id)?;
    if !session.audience.reserve(&name, MOST_VIEWERS) {
        return Ok(busy(format!("{MOST_VIEWERS} watch this session already")));
    }
    let (tell, told) = oneshot::channel();
    // A task of its own: it ends what it begins, also if whoever asked does not wait for the answer.
    tokio::spawn(serve(Arc::clone(shared), Arc::clone(session), name.clone(), offer, tell));
    let gone = |_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the viewer could not be let in", None);
    let answer = told.await.map_err(gone)??;
    Ok(created(shared, &format!("/whep/{}/{name}", session.id), shown.token.as_deref(), answer))
}

/// Lets a viewer in, tells the answer, and stays until he is gone.
async fn serve(
    shared: Shared,
    session: Arc<Session>,
    name: String,
    offer: String,
    tell: oneshot::Sender<Result<String, Problem>>,
) {
    let (reach, size) = (shared.reach.clone(), session.size());
    match tokio::task::spawn_blocking(move || Viewer::answer(&offer, &reach, size)).await {
        Ok(Ok((viewer, answer))) => {
            let viewer = Arc::new(viewer);
            session.audience.enter(&name, &viewer);
            shared.metrics.viewers.inc();
            tracing::info!(session = session.id, viewer = name, "a viewer comes");
            if tell.send(Ok(answer)).is_ok() {
                attend(&shared, &session, &name, &viewer).await;
            }
            session.audience.leave(&name);
            let _ = tokio::task::spawn_blocking(move || drop(viewer)).await;
            tracing::info!(session = session.id, viewer = name, "a viewer goes");
            shared.metrics.viewers.dec();
        }
        Ok(Err(error)) => {
            session.audience.leave(&name);
            let _ = tell.send(Err(error.into()));
        }
        // A panic, of which the log tells.
        Err(_) => drop(session.audience.leave(&name)),
    }
}

/// Returns when the viewer is gone, or has nothing more to see.
async fn attend(shared: &Shared, session: &Session, name: &str, viewer: &Viewer) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = shared.ending.notified() => return,
        }
        if let Err(error) = viewer.check() {
            tracing::info!(session = session.id, viewer = name, %error);
            return;
        }
        if session.is_closed.load(Ordering::Relaxed) || !session.audience.has(name) {
            return;
        }
    }
}
