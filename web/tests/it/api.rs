//! The HTTP interface.

use serde_json::{Value, json};

use crate::support::{Running, Visitor, grey};

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_steered_and_pictured_over_http() {
    let server = Running::start(2, None);
    let mut visitor = Visitor::connect(&server).await;
    let id = visitor.text("hello").await["session"].as_str().unwrap().to_owned();
    visitor.painted(&grey(90)).await;
    tokio::task::block_in_place(|| {
        let (status, sessions) = server.ask("GET", "/api/v1/sessions", None);
        assert_eq!((status, &sessions[0]["id"], &sessions[0]["frames_out"]), (200, &json!(id), &json!(1)));
        let prompt = format!("/api/v1/sessions/{id}/prompt");
        let (status, all) = server.ask("POST", &prompt, Some(r#"{"prompt": "a fox", "negative_prompt": "a dog"}"#));
        assert_eq!((status, &all["prompt"], &all["negative-prompt"]), (200, &json!("a fox"), &json!("a dog")));
        let parameters = format!("/api/v1/sessions/{id}/parameters");
        let (status, all) =
            server.ask("PATCH", &parameters, Some(r#"{"guidance": 1.7, "t-index": [20, 40], "strength": 0}"#));
        assert_eq!((status, &all["guidance"], &all["t-index"]), (200, &json!("1.7"), &json!("48,49")));
        let (status, png) = server.ask_raw("GET", "/api/v1/snapshot", None, &[]);
        assert_eq!((status, &png[..8]), (200, b"\x89PNG\r\n\x1a\n".as_slice()));
        assert!(png.windows(5).any(|part| part == b"a fox"));
        // One parameter that may not be: none is changed.
        for (body, status, what) in [
            (r#"{"guidance": 1.2, "delta": "x"}"#, 422, "delta"),
            (r#"{"guidance": 1.2, "nonsense": 1}"#, 422, "nonsense"),
            (r#"{"guidance": 1.2, "frame-buffer": 2}"#, 422, "frame-buffer"),
            (r#"{"guidance": 1.2, "t-index": "5,200"}"#, 422, "200"),
            (r#"{"guidance": 1.2, "size": "8192x16"}"#, 422, "larger than this server paints"),
            (r#"{"guidance": {}}"#, 422, "guidance"),
            (r#"{"guidance": 1.2, "strength": 2}"#, 422, "strength \"2\" is out of range"),
            (r#"{"guidance": 1.2, "strength": "x"}"#, 422, "is not a number"),
            ("[1]", 422, "expected"),
            ("{", 400, "JSON"),
        ] {
            let (have, answer) = server.ask("PATCH", &parameters, Some(body));
            assert_eq!(have, status, "{body}: {answer}");
            assert!(answer["error"].as_str().unwrap().contains(what), "{body}: {answer}");
        }
        assert_eq!(server.ask("GET", &parameters, None).1["guidance"], "1.7");
        assert_eq!(server.ask("GET", "/api/v1/sessions/none/parameters", None).0, 404);
        assert_eq!(server.ask("GET", "/api/v1/snapshot?session=none", None).0, 404);
        let (_, metrics) = server.ask_raw("GET", "/metrics", None, &[]);
        let metrics = String::from_utf8(metrics).unwrap();
        for line in ["livediffusion_frames_out_total 1\n", "livediffusion_sessions 1\n", "stage=\"denoise\"} 1\n"] {
            assert!(metrics.contains(line), "{line}: {metrics}");
        }
    });
}

/// Every path of the document answers, as it says, and the document is the one under docs/.
#[test]
fn the_openapi_document_tells_what_there_is() {
    let server = Running::start(1, None);
    let (status, document) = server.ask("GET", "/api/v1/openapi.json", None);
    assert_eq!(status, 200);
    let paths = document["paths"].as_object().unwrap();
    for (path, methods) in paths {
        let path = path.replace("{id}", "none").replace("{viewer}", "none").replace("{file}", "style.css");
        for method in ["get", "post", "patch", "put", "delete"] {
            if let Some(operation) = methods.get(method) {
                let told = |status: &str| operation["responses"].get(status).is_some();
                // By the guard: a wrong Host or Origin anywhere, a wrong token where one is needed.
                assert!(told("403") && told("401") == operation.get("security").is_none(), "{method} {path}");
                let has_body = operation.get("requestBody").is_some();
                let of_body = ["400", "408", "413", "415"].iter().all(|status| told(status));
                assert!(of_body == has_body, "{method} {path}");
            }
            let (status, _) =
                server.ask_raw(&method.to_uppercase(), &path, Some("{}").filter(|_| method != "get"), &[]);
            let is_there = methods.get(method).is_some();
            assert_eq!(status != 405, is_there, "{method} {path}: {status}");
            if path.starts_with("/wh") {
                // An offer is no JSON, and nobody is there.
                assert!(!is_there || [404, 415].contains(&status), "{method} {path}: {status}");
            } else if is_there && !["none", "snapshot", "stream"].iter().any(|part| path.contains(part)) {
                assert_eq!(status, 200, "{method} {path}");
            }
        }
    }
    // And the other way round: each route in the source is in the document.
    let source = include_str!("../../src/server.rs");
    let routes: Vec<&str> = source.split(".route(\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(routes.len(), paths.len());
    assert!(routes.iter().all(|route| paths.contains_key(*route)));
    assert_eq!(server.ask("GET", "/nowhere", None).0, 404);
}

/// Also where axum refuses before our own code is asked.
#[test]
fn every_refusal_has_the_same_form() {
    let server = Running::start(1, Some("the-right-token"));
    let bearer = [("authorization", "bearer the-right-token")];
    let long = format!("/api/v1/snapshot?session={}", "x".repeat(10_000));
    for (method, path, status, what) in [
        ("DELETE", "/api/v1/stats", 405, "DELETE does nothing at /api/v1/stats"),
        ("GET", "/page/nosuch.js", 404, "nosuch.js"),
        ("GET", "/nowhere", 404, "/nowhere"),
        ("GET", "/api/v1/snapshot?session=a&session=b", 400, "duplicate field"),
        ("GET", &long, 404, "no session"),
        ("POST", "/whep?token=a&token=b", 400, "duplicate field"),
        ("GET", "/api/v1/sessions/%ff/parameters", 400, "UTF-8"),
        ("GET", "/api/v1/stream", 400, "Connection"),
    ] {
        let mut answer = server.send(method, path, Some("{}").filter(|_| method != "GET"), &bearer);
        let text = answer.body_mut().read_to_string().unwrap();
        let problem: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{method} {path}: {text}"));
        assert_eq!(answer.status(), status, "{method} {path}: {text}");
        assert!(problem["error"].as_str().unwrap().contains(what), "{method} {path}: {text}");
        assert!(problem.get("hint").is_some(), "{method} {path}: {text}");
        assert_eq!(answer.headers().contains_key("allow"), status == 405, "{method} {path}");
    }
    let refused = server.send("GET", "/api/v1/stats", None, &[]);
    assert_eq!((refused.status().as_u16(), &refused.headers()["www-authenticate"]), (401, &"Bearer".parse().unwrap()));
}

#[test]
fn schema_presets_and_health() {
    let server = Running::start(1, None);
    let (_, schema) = server.ask("GET", "/api/v1/schema", None);
    assert_eq!(schema["properties"]["t-index"]["default"], "45");
    let (_, presets) = server.ask("GET", "/api/v1/presets", None);
    assert_eq!(
        presets[1],
        json!({ "name": "long", "prompt": "a very long prompt", "parameters": { "guidance": "1.5" } })
    );
    assert_eq!(server.ask_raw("GET", "/healthz", None, &[]).1, b"ok\n");
    let (_, stats) = server.ask("GET", "/api/v1/stats", None);
    assert_eq!((&stats["sessions"], &stats["max_sessions"]), (&Value::Array(Vec::new()), &json!(1)));
}
