//! `/whip`: a peer publishes, and is painted.

use std::sync::Arc;
use std::thread::JoinHandle;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use livediffusion_io::{Publisher, SourceFrame};
use livediffusion_pipeline::params::Parameters;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{MissedTickBehavior, interval};

use super::{LOOK, busy, created, offer};
use crate::api::{Answer, Problem, session};
use crate::message::{Header, Kind, Values};
use crate::refusal::Refusal;
use crate::server::{Shared, random_id};
use crate::session::{Pixels, Session, Source};
use crate::studio::Studio;

/// Makes a session for a peer that publishes.
pub(crate) async fn publish(
    State(shared): State<Shared>,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer<Response> {
    let offer = offer(&headers, &body)?;
    Publisher::check_offer(&offer)?;
    let parameters = parameters(&shared.studio, &query)?;
    let Some(place) = shared.line.free_place() else {
        return Ok(busy(format!("all {} sessions are taken", shared.line.max)));
    };
    let (tell, told) = oneshot::channel();
    // A task of its own: it ends what it begins, also if whoever asked does not wait for the answer.
    tokio::spawn(host(Arc::clone(&shared), place, parameters, offer, tell));
    let gone = |_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the session could not be made", None);
    let (id, answer) = told.await.map_err(gone)??;
    let token = query.iter().find(|(name, _)| name == "token").map(|(_, token)| token.as_str());
    Ok(created(&shared, &format!("/whip/{id}"), token, answer))
}

/// Ends a session that a peer publishes to.
pub(crate) async fn end(State(shared): State<Shared>, Path(id): Path<String>) -> Answer<Response> {
    let session = session(&shared, &id)?;
    if session.source != Source::Whip {
        return Err(Problem::no_session(&id));
    }
    session.ending.notify_one();
    Ok(StatusCode::OK.into_response())
}

/// The parameters that an address asks for: of its preset, and its own over them.
fn parameters(studio: &Studio, query: &[(String, String)]) -> Result<Parameters, Refusal> {
    let mut values = Values::new();
    for (_, name) in query.iter().filter(|(name, _)| name == "preset") {
        values.extend(studio.preset_values(name)?);
    }
    let own = query.iter().filter(|(name, _)| name != "preset" && name != "token");
    values.extend(own.map(|(name, text)| (name.replace('_', "-"), text.clone())));
    studio.changed(&studio.defaults, &values)
}

/// A session, what brings its frames, and the answer for it.
type Made = (Arc<Session>, JoinHandle<()>, Publisher, String);

fn make(id: String, shared: &Shared, parameters: Parameters, offer: &str) -> Result<Made, Problem> {
    let (session, thread) = Session::start(id, Source::Whip, parameters, &shared.studio, &shared.metrics)
        .map_err(|error| Problem::from(Refusal::from(error)))?;
    let theirs = Arc::clone(&session);
    let take = move |frame: SourceFrame| {
        let header = Header { kind: Kind::Frame, id: frame.meta().id, time_us: 0 };
        theirs.frame(header, Pixels::Decoded(frame));
    };
    match Publisher::answer(offer, &shared.reach, session.size(), take) {
        Ok((publisher, answer)) => Ok((session, thread, publisher, answer)),
        Err(error) => {
            session.close();
            // It has painted nothing: it ends at once.
            let _ = thread.join();
            Err(error.into())
        }
    }
}

/// Makes a session, tells the answer, and stays until the peer is gone.
async fn host(
    shared: Shared,
    place: OwnedSemaphorePermit,
    parameters: Parameters,
    offer: String,
    tell: oneshot::Sender<Result<(String, String), Problem>>,
) {
    let theirs = Arc::clone(&shared);
    let work = move || {
        let no_id = |_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the system has no randomness", None);
        make(random_id().map_err(no_id)?, &theirs, parameters, &offer)
    };
    let (session, thread, publisher, answer) = match tokio::task::spawn_blocking(work).await {
        Ok(Ok(made)) => made,
        Ok(Err(problem)) => {
            let _ = tell.send(Err(problem));
            return;
        }
        // A panic, of which the log tells.
        Err(_) => return,
    };
    let listed = shared.line.list(&session, place);
    tracing::info!(session = session.id, "a publisher comes");
    if tell.send(Ok((session.id.clone(), answer))).is_ok() {
        attend(&shared, &session, &publisher).await;
    }
    session.close();
    // The place is free when the engine's memory is.
    let _ = tokio::task::spawn_blocking(move || {
        drop(publisher);
        thread.join()
    })
    .await;
    tracing::info!(session = session.id, "a publisher goes");
    drop(listed);
}

/// Returns when the peer is gone, or is to go.
async fn attend(shared: &Shared, session: &Session, publisher: &Publisher) {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut size = session.size();
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            () = session.ending.notified() => return,
            () = shared.ending.notified() => return,
        }
        if let Err(error) = publisher.check() {
            tracing::info!(session = session.id, %error);
            return;
        }
        if session.size() != size {
            size = session.size();
            publisher.resize(size);
        }
    }
}
