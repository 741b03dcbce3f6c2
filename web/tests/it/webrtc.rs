//! WHIP and WHEP against peers of the tests' own: publishers and viewers that come, go, vanish, and mean no good.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use livediffusion_io::{Input, Next, Output, SinkOptions, SourceOptions, VideoSink, VideoSource};
use livediffusion_pipeline::frame::{FrameMeta, Size};
use livediffusion_pipeline::stats::{Clock, MonotonicClock};
use serde_json::{Value, json};

use crate::caller::{Caller, cannot_call};
use crate::hostile::{descriptors, resident_mb};
use crate::support::{PATIENCE, Running, Visitor, grey};

/// What the server says to an offer.
#[derive(Debug)]
struct Said {
    status: u16,
    location: String,
    retry_after: Option<String>,
    body: String,
}

fn post(server: &Running, path: &str, offer: &str, headers: &[(&str, &str)]) -> Said {
    let mut all = vec![("content-type", "application/sdp")];
    all.extend(headers);
    let mut answer = server.send("POST", path, Some(offer), &all);
    let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (location, retry_after) = (header("location").unwrap_or_default(), header("retry-after"));
    let status = answer.status().as_u16();
    Said { status, location, retry_after, body: answer.body_mut().read_to_string().unwrap() }
}

/// Publishes a moving picture; the session's address.
fn publish(server: &Running, codec: &str, path: &str) -> (Caller, String) {
    let caller = Caller::publish(codec, "ball");
    let said = post(server, path, &caller.offer(), &[]);
    assert_eq!(said.status, 201, "{said:?}");
    caller.accept(&said.body);
    (caller, said.location)
}

fn watch(server: &Running, codec: &str, path: &str) -> (Caller, String) {
    let caller = Caller::watch(codec);
    let said = post(server, path, &caller.offer(), &[]);
    assert_eq!(said.status, 201, "{said:?}");
    caller.accept(&said.body);
    (caller, said.location)
}

fn sessions(server: &Running) -> Vec<Value> {
    server.ask("GET", "/api/v1/sessions?token=the-right-token", None).1.as_array().unwrap().clone()
}

/// Waits until the sessions are as wanted.
fn until(server: &Running, what: &str, is_right: impl Fn(&[Value]) -> bool) {
    for _ in 0..PATIENCE.as_millis() / 100 {
        if is_right(&sessions(server)) {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(100));
    }
    panic!("{what}: {:?}", sessions(server));
}

fn round_trip(codec: &str) {
    let server = Running::start(2, None);
    let (_publisher, session) = publish(&server, codec, "/whip");
    let id = session.strip_prefix("/whip/").unwrap();
    let (viewer, watching) = watch(&server, codec, "/whep");
    assert!(watching.starts_with(&format!("/whep/{id}/")), "{watching}");
    let before = viewer.until("pictures", |seen| seen.frames > 10 && seen.moved > 0.0);
    assert_eq!(before.size, (32, 16));
    let shown = sessions(&server).remove(0);
    assert_eq!((&shown["id"], &shown["source"], &shown["viewers"]), (&json!(id), &json!("whip"), &json!(1)));
    let metrics = String::from_utf8(server.ask_raw("GET", "/metrics", None, &[]).1).unwrap();
    for line in ["livediffusion_sessions 1\n", "livediffusion_viewers 1\n"] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    // The networks of the tests paint brighter under a longer prompt.
    let change = |body: &Value| {
        let path = format!("/api/v1/sessions/{id}/parameters");
        assert_eq!(server.ask("PATCH", &path, Some(&body.to_string())).0, 200);
    };
    change(&json!({ "prompt": "a long prompt" }));
    viewer.until("the effect of a prompt", |seen| seen.mean > before.mean + 5.0);
    change(&json!({ "size": "64x48" }));
    viewer.until("another size", |seen| seen.size == (64, 48));
    // The bright prompt holds for the other size, and pictures still move.
    viewer.until("moving", |seen| seen.mean > before.mean + 5.0 && seen.moved > 0.0);
    assert_eq!(server.ask_raw("GET", "/api/v1/snapshot", None, &[]).0, 200);
    let delete = |path: &str| server.ask("DELETE", path, None).0;
    assert_eq!((delete(&watching), delete(&watching)), (200, 404));
    assert_eq!(delete("/whip/nobody"), 404);
    assert_eq!(delete(&session), 200);
    until(&server, "no session", <[Value]>::is_empty);
    assert_eq!(delete(&session), 404);
}

#[test]
fn h264_is_published_painted_and_watched() {
    if !cannot_call() {
        round_trip("H264");
    }
}

#[test]
fn vp8_is_published_painted_and_watched() {
    if !cannot_call() {
        round_trip("VP8");
    }
}

/// A page's pictures are watched, too, and its end ends the watching.
#[tokio::test(flavor = "multi_thread")]
async fn a_visitor_of_the_page_is_watched() {
    if cannot_call() {
        return;
    }
    let server = Running::start(1, None);
    let mut visitor = Visitor::connect(&server).await;
    let id = visitor.text("hello").await["session"].as_str().unwrap().to_owned();
    let viewer = tokio::task::block_in_place(|| watch(&server, "H264", &format!("/whep/{id}")).0);
    while viewer.seen().frames < 5 {
        visitor.painted(&grey(90)).await;
    }
    tokio::task::block_in_place(|| {
        assert_eq!(sessions(&server)[0]["source"], "page");
        // The only session is what is watched where nobody publishes, and no place is left for one who wants to.
        let (_second, _) = watch(&server, "VP8", "/whep");
        let said = post(&server, "/whip", &Caller::publish("VP8", "ball").offer(), &[]);
        assert_eq!((said.status, said.retry_after.as_deref()), (503, Some("5")), "{said:?}");
        assert_eq!(server.ask("DELETE", &format!("/whip/{id}"), None).0, 404);
    });
    visitor.close().await;
    tokio::task::block_in_place(|| until(&server, "no session", <[Value]>::is_empty));
}

#[test]
fn what_is_no_offer_is_refused_and_takes_no_place() {
    if cannot_call() {
        return;
    }
    let server = Running::start(1, Some("the-right-token"));
    let right = [("authorization", "Bearer the-right-token")];
    let offer = Caller::publish("H264", "ball").offer();
    let long = format!("{offer}a=x:{}\r\n", "y".repeat(70_000));
    let (no_ice, opus) = (offer.replace("a=ice-pwd", "a=no"), offer.replace("H264", "H266"));
    let viewer = Caller::watch("VP8").offer();
    for (path, body, status) in [
        ("/whip", "", 400),
        ("/whip", "v=0", 400),
        ("/whip", "nonsense\r\n", 400),
        ("/whip", offer.split("a=fingerprint").next().unwrap(), 400),
        ("/whip", &no_ice, 400),
        ("/whip", &opus, 400),
        ("/whip", &long, 413),
        ("/whip", &viewer, 400),
        ("/whip?preset=nosuch", &offer, 422),
        ("/whip?guidance=x", &offer, 422),
        ("/whip?size=4096x4096", &offer, 422),
        ("/whip?frame_buffer=4", &offer, 422),
        ("/whep", &viewer, 404),
        ("/whep/nosuch", &viewer, 404),
    ] {
        let said = post(&server, path, body, &right);
        assert_eq!(said.status, status, "{path} {said:?}");
        assert!(said.body.contains("\"error\""), "{said:?}");
    }
    for (headers, status) in [
        (vec![], 401),
        (vec![("authorization", "Bearer the-wrong-token")], 401),
        (vec![right[0], ("origin", "http://evil.example")], 403),
        (vec![right[0], ("host", "evil.example")], 403),
    ] {
        assert_eq!(post(&server, "/whip", &offer, &headers).status, status, "{headers:?}");
    }
    let json = server.ask_raw("POST", "/whip?token=the-right-token", Some("{}"), &[]);
    assert_eq!(json.0, 415);
    assert_eq!(server.ask_raw("PATCH", "/whip/x", Some(""), &right).0, 405);
    let options = server.send("OPTIONS", "/whip", None, &right);
    assert_eq!(
        (options.status().as_u16(), &options.headers()["accept-post"]),
        (204, &"application/sdp".parse().unwrap())
    );
    // The place is still free, and a token in the address is good for the next one, too.
    let said = post(&server, "/whip?token=the-right-token&preset=long&guidance=1.7", &offer, &[]);
    assert_eq!(said.status, 201, "{said:?}");
    let id = said.location.strip_prefix("/whip/").unwrap().strip_suffix("?token=the-right-token").unwrap();
    let path = format!("/api/v1/sessions/{id}/parameters?token=the-right-token");
    let (_, values) = server.ask("GET", &path, None);
    assert_eq!((&values["prompt"], &values["guidance"]), (&json!("a very long prompt"), &json!("1.7")));
    assert_eq!(server.ask("DELETE", &said.location, None).0, 200);
}

/// Runs `child_peer` in a process of its own, which can be killed.
struct Peer(Child);

impl Peer {
    fn start(role: &str, server: &Running) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["webrtc::child_peer", "--exact", "--ignored", "--nocapture"])
            .env("PEER", role)
            .env("SERVER", server.address.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line.contains("the peer is there")), "{role}");
        Self(child)
    }

    /// Makes it silent, with its sockets open.
    fn pause(&self) {
        assert!(Command::new("kill").args(["-STOP", &self.0.id().to_string()]).status().unwrap().success());
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
#[ignore = "a part of whoever_vanishes_is_missed_and_leaves_nothing"]
fn child_peer() {
    let server = Running::at(std::env::var("SERVER").unwrap().parse().unwrap());
    let caller = match std::env::var("PEER").unwrap().as_str() {
        "publisher" => publish(&server, "VP8", "/whip").0,
        _ => watch(&server, "VP8", "/whep").0,
    };
    println!("the peer is there");
    std::thread::park_timeout(2 * PATIENCE);
    drop(caller);
}

#[test]
fn whoever_vanishes_is_missed_and_leaves_nothing() {
    if cannot_call() {
        return;
    }
    let server = Running::start(2, None);
    // One that has an answer and does not connect.
    let silent = Caller::publish("VP8", "ball");
    assert_eq!(post(&server, "/whip", &silent.offer(), &[]).status, 201);
    let publisher = Peer::start("publisher", &server);
    until(&server, "frames", |sessions| sessions.iter().any(|session| session["frames_out"].as_u64() > Some(5)));
    let viewer = Peer::start("viewer", &server);
    until(&server, "a viewer", |sessions| sessions.iter().any(|session| session["viewers"] == 1));
    std::thread::park_timeout(Duration::from_secs(1));
    let begun = MonotonicClock::start();
    // One that takes nothing any more holds nothing up.
    viewer.pause();
    let painted = |sessions: &[Value]| sessions.iter().filter_map(|session| session["frames_out"].as_u64()).max();
    let before = painted(&sessions(&server));
    until(&server, "frames go on", |sessions| painted(sessions) > before.map(|frames| frames + 50));
    viewer.kill();
    until(&server, "no viewer", |sessions| sessions.iter().all(|session| session["viewers"] == 0));
    println!("the viewer was missed after {:?}", begun.now());
    let begun = MonotonicClock::start();
    publisher.kill();
    until(&server, "no session", <[Value]>::is_empty);
    println!("the publisher was missed after {:?}", begun.now());
    drop(silent);
    // The places are free.
    let (_publisher, session) = publish(&server, "VP8", "/whip");
    assert_eq!(server.ask("DELETE", &session, None).0, 200);
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}

/// In a process of its own with one arena: glibc's others keep what was freed, more of it the more threads there were.
#[test]
fn twenty_peers_come_and_go_and_nothing_is_left_of_them() {
    if cannot_call() {
        return;
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["webrtc::child_crowd", "--exact", "--ignored", "--nocapture"])
        .env("MALLOC_ARENA_MAX", "1")
        .output()
        .unwrap();
    println!("{}{}", String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    assert!(child.status.success());
}

#[test]
#[ignore = "a part of twenty_peers_come_and_go_and_nothing_is_left_of_them"]
fn child_crowd() {
    let server = Running::start(1, None);
    let come_and_go = || {
        let (publisher, session) = publish(&server, "VP8", "/whip");
        let (viewer, watching) = watch(&server, "VP8", "/whep");
        viewer.until("pictures", |seen| seen.frames > 0);
        assert_eq!(server.ask("DELETE", &watching, None).0, 200);
        assert_eq!(server.ask("DELETE", &session, None).0, 200);
        drop((publisher, viewer));
        until(&server, "no session", <[Value]>::is_empty);
    };
    // Pools, caches and the allocator's own grow with the first of them.
    (0..5).for_each(|_| come_and_go());
    // What the ends of the last have begun takes a moment to end.
    let settled = |least: &dyn Fn() -> usize| {
        let counts: Vec<usize> = (0..20)
            .map(|_| {
                std::thread::park_timeout(Duration::from_millis(100));
                least()
            })
            .collect();
        counts.into_iter().min().unwrap()
    };
    let before = (settled(&threads), settled(&descriptors), resident_mb());
    (0..20).for_each(|_| come_and_go());
    let after = (settled(&threads), settled(&descriptors), resident_mb());
    println!("threads, descriptors, memory in MB: {before:?} -> {after:?}");
    assert!(after.0 <= before.0 + 4, "{before:?} {after:?}");
    assert!(after.1 <= before.1 + 8, "{before:?} {after:?}");
    assert!(after.2 <= before.2 + 8.0, "{before:?} {after:?}");
}

/// Raises a flag however a test ends, so that the thread that looks at it does.
struct Raise<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Our own outputs and inputs speak WHIP and WHEP with our own server.
#[test]
fn an_output_publishes_and_an_input_watches() {
    if cannot_call() {
        return;
    }
    let server = Running::start(1, Some("the-right-token"));
    let size = Size::new(128, 96);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let output = Output::parse(&format!("whip://the-right-token@{}/whip", server.address)).unwrap();
            let options = SinkOptions { live: true, ..SinkOptions::new(size, Some((25, 1))) };
            let mut sink = VideoSink::open(&output, options).unwrap();
            for id in 0_u64.. {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                let level = (8 * id % 256) as u8;
                let pts_ns = Some(40_000_000 * id);
                sink.push(FrameMeta { id, pts_ns, duration_ns: None }, &vec![level; 3 * size.pixels()]).unwrap();
                std::thread::park_timeout(Duration::from_millis(40));
            }
            sink.finish().unwrap();
        });
        let raise = Raise(&stop);
        until(&server, "frames", |sessions| sessions.iter().any(|session| session["frames_out"].as_u64() > Some(5)));
        let input = Input::parse(&format!("whep://the-right-token@{}/whep", server.address)).unwrap();
        let mut source = VideoSource::open(&input, &SourceOptions::new(size)).unwrap();
        assert!(source.info().live && source.info().natural == Size::new(32, 16), "{:?}", source.info());
        for _ in 0..20 {
            assert!(matches!(source.next(PATIENCE).unwrap(), Next::Frame(_)));
        }
        drop((source, raise));
    });
    // Hanging up ended the session.
    until(&server, "no session", <[Value]>::is_empty);
    // A server that is not there, and one that wants another token.
    for address in ["whip://127.0.0.1:9/whip".to_owned(), format!("whip://wrong@{}/whip", server.address)] {
        let output = Output::parse(&address).unwrap();
        let options = SinkOptions { live: true, ..SinkOptions::new(size, None) };
        let mut sink = VideoSink::open(&output, options).unwrap();
        let error = loop {
            match sink.push(FrameMeta::default(), &vec![0; 3 * size.pixels()]) {
                Ok(()) => std::thread::park_timeout(Duration::from_millis(20)),
                Err(error) => break error,
            }
        };
        println!("{error}");
        // The address without its token, which is nobody's business.
        let shown = address.replace("wrong@", "");
        assert!(error.to_string().contains(&shown) && !error.to_string().contains("wrong"), "{error}");
    }
}
