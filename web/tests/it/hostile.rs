//! Clients that mean no good, or are broken: nobody else notices them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use livediffusion_web::message::{Header, Kind, MOST_PAYLOAD};
use serde_json::json;

use crate::support::{Heard, PATIENCE, Running, Visitor, grey};

pub(crate) fn descriptors() -> usize {
    std::fs::read_dir(Path::new("/proc/self/fd")).map_or(0, Iterator::count)
}

pub(crate) fn resident_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse::<f64>().unwrap() / 1024.0
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tokens_hosts_and_origins_are_refused() {
    let server = Running::start(1, Some("the-right-token"));
    let stream = |query: &str| format!("ws://{}/api/v1/stream{query}", server.address);
    for (query, headers) in [("", vec![]), ("?token=the-wrong-token", vec![]), ("?token=", vec![])] {
        let refused = Visitor::connect_to(&stream(query), &headers).await.err().unwrap();
        assert!(refused.contains("401"), "{refused}");
    }
    let right = "?token=the-right-token";
    for headers in [vec![("origin", "http://evil.example")], vec![("host", "evil.example")]] {
        let refused = Visitor::connect_to(&stream(right), &headers).await.err().unwrap();
        assert!(refused.contains("403"), "{refused}");
    }
    let own = format!("http://{}", server.address);
    let mut visitor = Visitor::connect_to(&stream(right), &[("origin", own.as_str())]).await.unwrap();
    visitor.text("hello").await;
    tokio::task::block_in_place(|| {
        assert_eq!(server.ask("GET", "/api/v1/stats", None).0, 401);
        assert_eq!(server.ask("GET", "/", None).0, 401);
        assert_eq!(server.ask("GET", "/healthz", None).0, 200);
        let bearer = [("authorization", "Bearer the-right-token")];
        assert_eq!(server.ask_raw("GET", "/api/v1/stats", None, &bearer).0, 200);
        let foreign = [("authorization", "Bearer the-right-token"), ("origin", "http://evil.example")];
        assert_eq!(server.ask_raw("PATCH", "/api/v1/sessions/x/parameters", Some("{}"), &foreign).0, 403);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_answered_and_the_session_goes_on() {
    let server = Running::start(1, None);
    let mut visitor = Visitor::connect(&server).await;
    visitor.text("hello").await;
    for text in ["{", "[]", "{\"type\":\"nonsense\"}", "{\"type\":\"set\",\"parameters\":{\"a\":{}}}", "null"] {
        visitor.say(&serde_json::from_str(text).unwrap_or(json!(text))).await;
        assert!(visitor.text("error").await["message"].as_str().unwrap().contains("not understood"), "{text}");
    }
    for bytes in [&b""[..], b"LD", &[0; 64], &Header { kind: Kind::Picture, id: 1, time_us: 1 }.message(b"x")] {
        visitor.send_binary(bytes.to_vec()).await.unwrap();
        visitor.text("error").await;
    }
    // Broken pictures: told of, answered as dropped, and the next good one is painted.
    let good = grey(77);
    for broken in [&good[..good.len() / 2], b"no picture at all", &b"\xff\xd8\xff\xe0\x00\x10JFIF"[..]] {
        let id = visitor.frame(broken).await;
        let (mut told, mut dropped) = (false, false);
        while !(told && dropped) {
            match visitor.hear().await {
                Heard::Text(text) => told |= text["type"] == "error",
                Heard::Binary(Kind::Dropped, heard, ..) => dropped |= heard == id,
                Heard::Binary(Kind::Picture, ..) => break,
                other => panic!("{other:?}"),
            }
        }
    }
    visitor.painted(&good).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_ends_its_own_connection_only() {
    let server = Running::start(2, None);
    let mut other = Visitor::connect(&server).await;
    other.text("hello").await;
    let mut visitor = Visitor::connect(&server).await;
    visitor.text("hello").await;
    // The server may close before all is written.
    let _ = visitor.send_binary(vec![0; MOST_PAYLOAD + 4096]).await;
    loop {
        if let Heard::Closed(_) = visitor.hear().await {
            break;
        }
    }
    other.painted(&grey(10)).await;
    tokio::task::block_in_place(|| {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head =
            "PATCH /api/v1/sessions/x/parameters HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
        stream.write_all(format!("{head}Content-Length: 99999999\r\n\r\n{{\"prompt\": \"").as_bytes()).unwrap();
        // Refused before it is all there.
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 413");
    });
    let mut flooding = Visitor::connect(&server).await;
    flooding.text("hello").await;
    for at in 0..300 {
        flooding.say(&json!({ "type": "set", "parameters": { "delta": format!("0.{at}") } })).await;
    }
    assert!(flooding.text("error").await["message"].as_str().unwrap().contains("too many"));
    other.painted(&grey(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_connections_come_and_go_and_nothing_is_left_of_them() {
    let server = Running::start(2, None);
    let mut visitor = Visitor::connect(&server).await;
    visitor.text("hello").await;
    let paint = |count: usize| {
        let frame = grey(90);
        async move |visitor: &mut Visitor| {
            for _ in 0..count {
                visitor.painted(&frame).await;
            }
        }
    };
    paint(20)(&mut visitor).await;
    let address = server.address;
    let crowd = move |count: usize| {
        std::thread::spawn(move || {
            for at in 0..count {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                match at % 4 {
                    0 => {}
                    1 => stream.write_all(b"GET / HTTP/1.1\r\nHost: ").unwrap(),
                    2 => stream.write_all(b"\x16\x03\x01\xff\xff nonsense\r\n\r\n").unwrap(),
                    _ => {
                        stream
                            .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                            .unwrap();
                        let mut answer = String::new();
                        stream.read_to_string(&mut answer).unwrap();
                        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                    }
                }
            }
        })
    };
    // The allocator's and the runtime's buffers grow with the first of them.
    tokio::task::spawn_blocking(move || crowd(1_000).join().unwrap()).await.unwrap();
    let (fds, memory) = (descriptors(), resident_mb());
    let rest = crowd(10_000);
    // Whoever is painted is painted meanwhile.
    let mut painted = 0;
    while !rest.is_finished() {
        visitor.painted(&grey(90)).await;
        painted += 1;
    }
    rest.join().unwrap();
    assert!(painted > 10, "{painted}");
    paint(20)(&mut visitor).await;
    println!(
        "{painted} pictures meanwhile; descriptors {fds} -> {}, memory {memory} -> {} MB",
        descriptors(),
        resident_mb()
    );
    assert!(descriptors() <= fds + 16, "{fds} {}", descriptors());
    assert!(resident_mb() <= memory + 16.0, "{memory} {}", resident_mb());
}

/// Sockets that are opened and then say nothing hold no session, and whoever comes after them is served.
#[tokio::test(flavor = "multi_thread")]
async fn half_open_sockets_hold_nothing_up() {
    let server = Running::start(1, None);
    let half_open: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    let mut visitor = Visitor::connect(&server).await;
    visitor.text("hello").await;
    visitor.painted(&grey(90)).await;
    drop(half_open);
    // A visitor who vanishes without a word frees his place.
    drop(visitor);
    Visitor::connect(&server).await.text("hello").await;
}

#[test]
fn beyond_this_machine_a_token_is_needed() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let address =
        livediffusion_web::Address { bind: "0.0.0.0:0".parse().unwrap(), token: None, stun_server: None, tls: None };
    let error = runtime.block_on(livediffusion_web::Server::bind(&address, crate::support::studio(), 1)).err().unwrap();
    assert!(error.to_string().contains("token"), "{error}");
}
