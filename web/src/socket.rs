//! A visitor's connection: the line, then frames in and pictures out.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use livediffusion_pipeline::stats::{Clock, MonotonicClock};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::message::{HEADER, Header, MOST_PAYLOAD, MOST_TEXT, Reply, Request};
use crate::outbox::Note;
use crate::refusal::Refusal;
use crate::server::{Shared, random_id};
use crate::session::{Marks, Pixels, Session, Source};
use crate::thumbnails;

/// How often a visitor in line hears his position, and one who is painted how it goes.
const REPORT: Duration = Duration::from_secs(1);
/// How soon a page learns of parameters that others changed.
const LOOK: Duration = Duration::from_millis(250);
/// A visitor who sends nothing for so long is gone, however open the connection seems; a page that is frozen on purpose
/// answers the pings.
const SILENCE: Duration = Duration::from_secs(30);
/// Pings keep the connection open through proxies, and show who is gone.
const PING: Duration = Duration::from_secs(10);
/// A message that nobody takes for so long is not waited for any more.
const STUCK: Duration = Duration::from_secs(20);
/// Requests that a page may make in a second, on average and at once. A slider that is dragged makes thirty.
const REQUESTS: f64 = 100.0;

pub(crate) async fn upgrade(State(shared): State<Shared>, upgrade: WebSocketUpgrade) -> Response {
    upgrade
        .max_message_size(HEADER + MOST_PAYLOAD)
        .max_frame_size(HEADER + MOST_PAYLOAD)
        .max_write_buffer_size(2 * MOST_PAYLOAD)
        .on_upgrade(move |socket| async move { visit(shared, socket).await })
}

async fn visit(shared: Shared, socket: WebSocket) {
    let (mut sink, mut stream) = socket.split();
    let why = match painted(&shared, &mut sink, &mut stream).await {
        Ok(()) => None,
        Err(why) => Some(CloseFrame { code: close_code::POLICY, reason: Utf8Bytes::from_static(why) }),
    };
    // A visitor who is gone does not hear it.
    let _ = timeout(STUCK, sink.send(Message::Close(why))).await;
}

type Sink = SplitSink<WebSocket, Message>;
type Stream = SplitStream<WebSocket>;

/// Lets a visitor wait for a session and serves it. An error is said as the connection closes.
async fn painted(shared: &Shared, sink: &mut Sink, stream: &mut Stream) -> Result<(), &'static str> {
    let ticket = shared.line.queue().ok_or("too many visitors wait already: come back later")?;
    let mut tick = ticks(REPORT);
    // One future for all of the wait: a new one would go to the end of the line.
    let mut coming = pin!(shared.line.place());
    let place = loop {
        tokio::select! {
            biased;
            place = &mut coming => break place.ok_or("the server ends")?,
            _ = tick.tick() => {
                let reply = Reply::Waiting { position: ticket.position(), sessions: shared.line.max };
                if say(sink, &reply).await.is_err() {
                    return Ok(());
                }
            }
            // Whatever a visitor in line says is not for us yet; only whether he is still there.
            message = stream.next() => if !matches!(message, Some(Ok(_))) { return Ok(()) },
            () = shared.ending.notified() => return Ok(()),
        }
    };
    drop(ticket);
    let id = random_id().map_err(|_| "the system has no randomness")?;
    let (studio, metrics) = (Arc::clone(&shared.studio), Arc::clone(&shared.metrics));
    let start = move || Session::start(id, Source::Page, studio.defaults.clone(), &studio, &metrics);
    let made = tokio::task::spawn_blocking(start).await;
    let (session, thread) = match made {
        Ok(Ok(made)) => made,
        Ok(Err(error)) => {
            tracing::error!(%error, "a session could not be made");
            let Refusal { what: message, hint } = error.into();
            let _ = say(sink, &Reply::Error { message, hint, refused: BTreeMap::new() }).await;
            return Err("the session could not be made");
        }
        Err(_) => return Err("making the session panicked"),
    };
    let listed = shared.line.list(&session, place);
    tracing::info!(session = session.id, "a visitor comes");
    let served = serve(shared, &session, sink, stream).await;
    session.close();
    // The place is free when the engine's memory is.
    let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    tracing::info!(session = session.id, "a visitor goes");
    drop(listed);
    served
}

async fn serve(
    shared: &Shared,
    session: &Arc<Session>,
    sink: &mut Sink,
    stream: &mut Stream,
) -> Result<(), &'static str> {
    let studio = &shared.studio;
    let version = session.version();
    session.say(&Reply::Hello {
        session: &session.id,
        size: session.size().to_string(),
        model: &studio.model,
        provider: &studio.provider,
        precision: &studio.precision,
        version: env!("CARGO_PKG_VERSION"),
        parameters: session.values(),
    });
    let sending = send(session, sink);
    let receiving = receive(session, stream);
    let reporting = report(session, version);
    tokio::select! {
        result = sending => result,
        result = receiving => result,
        () = reporting => Ok(()),
        () = shared.ending.notified() => Ok(()),
    }
}

/// Sends what waits in the outbox, and pings.
async fn send(session: &Session, sink: &mut Sink) -> Result<(), &'static str> {
    let mut pings = ticks(PING);
    loop {
        let message = tokio::select! {
            note = session.outbox.next() => match note {
                Some(Note::Text(text)) => Message::Text(text.into()),
                Some(Note::Binary(bytes)) => Message::Binary(bytes),
                None => return Err("too many messages wait: the page reads none"),
            },
            _ = pings.tick() => Message::Ping(bytes::Bytes::new()),
        };
        match timeout(STUCK, sink.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Ok(()),
            Err(_) => return Err("the connection is stuck"),
        }
    }
}

/// Takes frames and requests.
async fn receive(session: &Arc<Session>, stream: &mut Stream) -> Result<(), &'static str> {
    let clock = MonotonicClock::start();
    let (mut allowance, mut last) = (REQUESTS, clock.now());
    loop {
        let message = match timeout(SILENCE, stream.next()).await {
            Ok(Some(Ok(message))) => message,
            // Closed, broken, or larger than allowed.
            Ok(Some(Err(_)) | None) => return Ok(()),
            Err(_) => return Err("nothing was heard for too long"),
        };
        match message {
            Message::Binary(bytes) => match Header::frame(&bytes) {
                Ok((header, payload)) => session.frame(header, Pixels::Encoded(payload)),
                Err(error) => session.complain(Refusal::bare(error.to_string())),
            },
            Message::Text(text) => {
                let now = clock.now();
                allowance = (allowance + now.saturating_sub(last).as_secs_f64() * REQUESTS).min(REQUESTS);
                last = now;
                if text.len() > MOST_TEXT {
                    return Err("the request is too long");
                }
                let request = serde_json::from_str::<Request>(&text);
                // Acknowledgements come with every picture and cost nothing.
                if let Ok(Request::Ack { .. }) = request {
                    session.outbox.drawn();
                    continue;
                }
                if allowance < 1.0 {
                    session.complain(Refusal::bare("too many requests in a second: this one is not heard"));
                    continue;
                }
                allowance -= 1.0;
                let answer = match request {
                    Ok(request) => follow(session, request),
                    Err(error) => Err(Refusal::bare(format!("the request is not understood: {error}"))),
                };
                if let Err(refusal) = answer {
                    session.complain(refusal);
                }
            }
            Message::Close(_) => return Ok(()),
            Message::Ping(_) | Message::Pong(_) => {}
        }
    }
}

fn follow(session: &Arc<Session>, request: Request) -> Result<(), Refusal> {
    match request {
        Request::Set { parameters, each } => {
            session.change(&parameters, each);
            Ok(())
        }
        Request::Preset { name } => session.take_preset(&name),
        Request::Thumbnails => {
            thumbnails::start(session);
            Ok(())
        }
        Request::Ack { .. } => Ok(()),
    }
}

/// Tells the page of its numbers, and of parameters that changed since `version`.
async fn report(session: &Session, mut version: u64) {
    let mut looks = ticks(LOOK);
    let (mut marks, mut since) = (Marks::default(), Instant::now());
    let mut unused: [String; 2] = Default::default();
    loop {
        let now = looks.tick().await;
        let new = session.version();
        if new != version {
            version = new;
            session.say(&Reply::Parameters { size: session.size().to_string(), parameters: session.values() });
        }
        let now_unused = session.unused();
        if now_unused != unused {
            unused = now_unused;
            let [prompt, negative] = unused.clone();
            session.say(&Reply::Unused { prompt, negative });
        }
        let passed = now.saturating_duration_since(since);
        if passed >= REPORT {
            since = now;
            session.say(&Reply::Stats(session.numbers(&mut marks, passed.as_secs_f64())));
        }
    }
}

async fn say(sink: &mut Sink, reply: &Reply<'_>) -> Result<(), ()> {
    let text = serde_json::to_string(reply).map_err(drop)?;
    match timeout(STUCK, sink.send(Message::Text(text.into()))).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(()),
    }
}

fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
