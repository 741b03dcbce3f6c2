//! The HTTP interface under `/api/v1`.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, Query, State};
use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use livediffusion_pipeline::controlnet;
use livediffusion_pipeline::engine::ModelFacts;
use livediffusion_pipeline::params::{Kind, PARAMETERS, Parameters};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::message::{Values, text_of};
use crate::picture::png;
use crate::refusal::{Refusal, without_flags};
use crate::server::Shared;
use crate::session::Session;

/// The interface as an OpenAPI document; a test holds it against the routes.
pub(crate) const OPENAPI: &str = include_str!("../../docs/openapi.json");

/// A refused request: `{"error": ..., "hint": ...}`.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    what: String,
    hint: Option<String>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, what: impl Into<String>, hint: Option<&str>) -> Self {
        Self { status, what: what.into(), hint: hint.map(str::to_owned) }
    }

    pub(crate) fn no_session(id: &str) -> Self {
        let what = format!("there is no session {id:?}");
        Self::new(StatusCode::NOT_FOUND, what, Some("GET /api/v1/sessions lists those there are"))
    }
}

impl From<Refusal> for Problem {
    fn from(Refusal { what, hint }: Refusal) -> Self {
        Self { status: StatusCode::UNPROCESSABLE_ENTITY, what, hint }
    }
}

impl From<JsonRejection> for Problem {
    fn from(error: JsonRejection) -> Self {
        Self::new(error.status(), error.body_text(), Some("GET /api/v1/openapi.json says what the body is"))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        // RFC 9110 wants to be told how one shows who one is.
        let challenge = (self.status == StatusCode::UNAUTHORIZED).then_some([(WWW_AUTHENTICATE, "Bearer")]);
        (self.status, challenge, Json(json!({ "error": self.what, "hint": self.hint }))).into_response()
    }
}

pub(crate) type Answer<T> = Result<T, Problem>;

pub(crate) async fn schema(State(shared): State<Shared>) -> Json<Value> {
    Json(schema_of(&shared.studio.defaults, &shared.studio.facts))
}

/// The parameter table as a JSON schema: every value is text, as a flag takes it. `x-unused` has what the model has no use for.
fn schema_of(defaults: &Parameters, facts: &ModelFacts) -> Value {
    let mut properties = Map::new();
    for spec in PARAMETERS {
        let mut property = json!({
            "type": "string",
            "description": without_flags(spec.doc),
            "default": (spec.show)(defaults),
            "x-unit": spec.unit,
            "x-hot": spec.hot || spec.name == "size",
            "x-unused": !facts.has_controlnet && controlnet::PARAMETERS.contains(&spec.name),
        });
        let (kind, range) = match spec.kind {
            Kind::Text(most) => {
                property["maxLength"] = json!(most);
                ("text", None)
            }
            Kind::Integer(low, high) => ("integer", Some((low as f64, high as f64))),
            Kind::OptionalInteger(low, high) => ("optional-integer", Some((low as f64, high as f64))),
            Kind::Float(low, high) => ("float", Some((low, high))),
            Kind::OptionalFloat(low, high) => ("optional-float", Some((low, high))),
            Kind::Switch => ("switch", None),
            Kind::Choice(words) => {
                property["enum"] = json!(words);
                ("choice", None)
            }
            Kind::Indices => ("indices", None),
            Kind::Size => ("size", None),
            Kind::Seconds(most) => ("seconds", Some((0.0, most))),
            Kind::Seeds => ("seeds", None),
        };
        property["x-kind"] = json!(kind);
        if let Some((low, high)) = range {
            (property["minimum"], property["maximum"]) = (json!(low), json!(high));
        }
        properties.insert(spec.name.to_owned(), property);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "livediffusion parameters",
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    })
}

pub(crate) async fn presets(State(shared): State<Shared>) -> Json<Value> {
    Json(json!(shared.studio.presets))
}

pub(crate) async fn sessions(State(shared): State<Shared>) -> Json<Value> {
    Json(shared.line.sessions().iter().map(|session| described(session)).collect())
}

fn described(session: &Session) -> Value {
    let read = |count: &std::sync::atomic::AtomicU64| count.load(std::sync::atomic::Ordering::Relaxed);
    let seconds = livediffusion_pipeline::stats::Clock::now(&session.clock).as_secs_f64();
    let counts = &session.counts;
    json!({
        "id": session.id,
        "source": session.source,
        "viewers": session.audience.len(),
        "size": session.size().to_string(),
        "seconds": (seconds * 10.0).round() / 10.0,
        "fps": (read(&counts.frames_out) as f64 / seconds.max(1.0) * 10.0).round() / 10.0,
        "frames_in": read(&counts.frames_in),
        "frames_out": read(&counts.frames_out),
        "frames_dropped": read(&counts.dropped),
        "frames_skipped": read(&counts.skipped),
    })
}

pub(crate) fn session(shared: &Shared, id: &str) -> Answer<Arc<Session>> {
    shared.line.session(id).ok_or_else(|| Problem::no_session(id))
}

pub(crate) async fn parameters(State(shared): State<Shared>, Path(id): Path<String>) -> Answer<Json<Values>> {
    Ok(Json(session(&shared, &id)?.values()))
}

pub(crate) async fn change_parameters(
    State(shared): State<Shared>,
    Path(id): Path<String>,
    body: Result<Json<Map<String, Value>>, JsonRejection>,
) -> Answer<Json<Values>> {
    let session = session(&shared, &id)?;
    let Json(body) = body?;
    let texts = body.iter().map(|(name, value)| {
        let refusal =
            || Refusal::new(format!("{name} is no text, number or list"), "GET /api/v1/schema says what it takes");
        Ok((name.clone(), text_of(value).ok_or_else(refusal)?))
    });
    session.set(&texts.collect::<Result<Values, Refusal>>()?)?;
    Ok(Json(session.values()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Prompt {
    prompt: String,
    negative_prompt: Option<String>,
}

pub(crate) async fn prompt(
    State(shared): State<Shared>,
    Path(id): Path<String>,
    body: Result<Json<Prompt>, JsonRejection>,
) -> Answer<Json<Values>> {
    let session = session(&shared, &id)?;
    let Json(Prompt { prompt, negative_prompt }) = body?;
    let mut values = Values::from([("prompt".to_owned(), prompt)]);
    values.extend(negative_prompt.map(|text| ("negative-prompt".to_owned(), text)));
    session.set(&values)?;
    Ok(Json(session.values()))
}

#[derive(Deserialize)]
pub(crate) struct Which {
    session: Option<String>,
}

/// The newest picture of a session; of the only one where none is named.
pub(crate) async fn snapshot(State(shared): State<Shared>, Query(which): Query<Which>) -> Answer<Response> {
    let session = if let Some(id) = which.session {
        session(&shared, &id)?
    } else {
        let mut sessions = shared.line.sessions();
        match sessions.len() {
            1 => sessions.remove(0),
            count => {
                let what = format!("there are {count} sessions");
                return Err(Problem::new(StatusCode::NOT_FOUND, what, Some("name one with ?session=ID")));
            }
        }
    };
    let newest = session.newest().clone();
    let Some(size) = newest.size else {
        return Err(Problem::new(StatusCode::NOT_FOUND, "the session has no picture yet", None));
    };
    let values = session.values();
    // Milliseconds of work: not on the threads that serve everybody.
    let encoded = tokio::task::spawn_blocking(move || png(&newest.picture, size, &values)).await;
    match encoded {
        Ok(Ok(bytes)) => Ok(([(CONTENT_TYPE, "image/png")], bytes).into_response()),
        Ok(Err(what)) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, what, None)),
        Err(_) => Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "encoding the picture panicked", None)),
    }
}

pub(crate) async fn stats(State(shared): State<Shared>) -> Json<Value> {
    let sessions: Vec<Value> = shared.line.sessions().iter().map(|session| described(session)).collect();
    Json(json!({
        "model": shared.studio.model,
        "provider": shared.studio.provider,
        "precision": shared.studio.precision,
        "version": env!("CARGO_PKG_VERSION"),
        "max_sessions": shared.line.max,
        "waiting": shared.line.waiting(),
        "memory_mb": crate::metrics::resident_bytes().map(|bytes| (bytes / 1e5).round() / 10.0),
        "sessions": sessions,
    }))
}

pub(crate) async fn openapi() -> Response {
    ([(CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

pub(crate) async fn metrics(State(shared): State<Shared>) -> Response {
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], shared.metrics.text())
        .into_response()
}

pub(crate) async fn not_found(uri: Uri) -> Problem {
    let what = format!("there is nothing at {}", uri.path());
    Problem::new(StatusCode::NOT_FOUND, what, Some("GET /api/v1/openapi.json lists what there is"))
}

#[cfg(test)]
mod tests {
    use livediffusion_pipeline::fake;

    use super::*;

    #[test]
    fn the_schema_has_every_parameter_with_what_a_slider_needs() {
        let facts = |has_controlnet| ModelFacts { has_controlnet, ..fake::facts(8) };
        let with = schema_of(&Parameters::default(), &facts(true));
        assert_eq!(with["properties"]["control-scale"]["x-unused"], false);
        let schema = schema_of(&Parameters::default(), &facts(false));
        let properties = schema["properties"].as_object().unwrap();
        let unused = properties.values().filter(|property| property["x-unused"] == true);
        assert_eq!(unused.count(), controlnet::PARAMETERS.len());
        assert_eq!(properties.len(), PARAMETERS.len());
        assert_eq!(properties["similarity"]["x-kind"], "optional-float");
        assert_eq!(
            (&properties["similarity"]["minimum"], &properties["similarity"]["default"]),
            (&json!(0.0), &json!("off"))
        );
        assert_eq!(properties["size"]["x-hot"], true);
        assert_eq!(properties["frame-buffer"]["x-hot"], false);
        assert!(properties["cfg"]["enum"].as_array().unwrap().contains(&json!("self")));
    }
}
