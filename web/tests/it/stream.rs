//! Frames in, pictures out, and what changes between them.

use livediffusion_web::message::Kind;
use serde_json::{Value, json};

use crate::support::{Heard, MAX_SIDE, Running, SIZE, Visitor, grey, mean, values};

#[tokio::test(flavor = "multi_thread")]
async fn a_visitor_is_painted_and_a_prompt_changes_the_picture() {
    let server = Running::start(2, None);
    let mut visitor = Visitor::connect(&server).await;
    let hello = visitor.text("hello").await;
    assert_eq!((&hello["size"], &hello["model"]), (&json!(SIZE.to_string()), &json!("fake")));
    assert_eq!(hello["parameters"]["t-index"], "45");
    let before = visitor.painted(&grey(90)).await;
    assert_eq!(visitor.painted(&grey(90)).await, before);
    visitor.say(&json!({ "type": "set", "parameters": { "prompt": "a long prompt" } })).await;
    let told = visitor.text("parameters").await;
    assert_eq!(told["parameters"]["prompt"], "a long prompt");
    let mut after = visitor.painted(&grey(90)).await;
    while after == before {
        // The prompt is encoded beside the stream: some frames go by.
        after = visitor.painted(&grey(90)).await;
    }
    assert!(after > before + 5.0, "{before} {after}");
    let stats = visitor.text("stats").await;
    assert!(stats["frames_out"].as_u64().unwrap() >= 3 && stats["frames_dropped"] == 0, "{stats}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_frame_is_answered_once_and_the_newest_wins() {
    let server = Running::start(1, None);
    let mut visitor = Visitor::connect(&server).await;
    let mut sent = Vec::new();
    for level in 0..60 {
        sent.push(visitor.frame(&grey(4 * level)).await);
    }
    let (mut painted, mut dropped) = (Vec::new(), Vec::new());
    while painted.len() + dropped.len() < sent.len() {
        match visitor.hear().await {
            Heard::Binary(Kind::Picture, id, ..) => {
                visitor.say(&json!({ "type": "ack", "id": id })).await;
                painted.push(id);
            }
            Heard::Binary(Kind::Dropped, id, ..) => dropped.push(id),
            Heard::Text(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(painted.is_sorted() && painted.last() == sent.last(), "{painted:?}");
    let mut all: Vec<u64> = painted.iter().chain(&dropped).copied().collect();
    all.sort_unstable();
    assert_eq!(all, sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_that_nobody_draws_are_not_sent() {
    let server = Running::start(1, None);
    let mut visitor = Visitor::connect(&server).await;
    let mut answers = Vec::new();
    for level in 0..8 {
        visitor.frame(&grey(20 * level)).await;
        // Not acknowledged: two may be under way, the others are answered when a newer one replaces them.
        if level < 2 {
            answers.push(visitor.binary(Kind::Picture).await.0);
        } else if level > 2 {
            answers.push(visitor.binary(Kind::Dropped).await.0);
        }
    }
    assert_eq!(answers, [0, 1, 2, 3, 4, 5, 6]);
    visitor.say(&json!({ "type": "ack", "id": 0 })).await;
    assert_eq!(visitor.binary(Kind::Picture).await.0, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_steps_delay_pictures_and_every_frame_is_still_answered() {
    let server = Running::start(1, None);
    let mut visitor = Visitor::connect(&server).await;
    visitor.say(&json!({ "type": "set", "parameters": { "t-index": "10,30,45" } })).await;
    visitor.text("parameters").await;
    // The tuner may need a moment more; then the first of three frames is only taken.
    let mut id = visitor.frame(&grey(100)).await;
    loop {
        match visitor.hear().await {
            Heard::Binary(Kind::Taken, taken, ..) => {
                assert_eq!(taken, id);
                break;
            }
            Heard::Binary(Kind::Picture, ..) => {
                visitor.say(&json!({ "type": "ack", "id": id })).await;
                id = visitor.frame(&grey(100)).await;
            }
            _ => {}
        }
    }
    visitor.frame(&grey(110)).await;
    visitor.binary(Kind::Taken).await;
    visitor.frame(&grey(120)).await;
    assert_eq!(visitor.binary(Kind::Picture).await.0, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_size_takes_over_while_the_stream_goes_on() {
    let server = Running::start(1, None);
    let mut visitor = Visitor::connect(&server).await;
    visitor.painted(&grey(90)).await;
    visitor.say(&json!({ "type": "set", "parameters": { "size": "48x24", "prompt": "new" } })).await;
    let size = loop {
        visitor.frame(&grey(90)).await;
        let (id, _, picture) = visitor.binary(Kind::Picture).await;
        visitor.say(&json!({ "type": "ack", "id": id })).await;
        let picture = image::load_from_memory(&picture).unwrap();
        if picture.width() != 32 {
            break (picture.width(), picture.height());
        }
    };
    assert_eq!(size, (48, 24));
    // Parameters go on being hot, and a size that cannot be is refused with the nearest that can.
    visitor.say(&json!({ "type": "set", "parameters": { "guidance": "1.3" } })).await;
    loop {
        let told = visitor.text("parameters").await;
        if told["parameters"]["guidance"] == "1.3" {
            assert_eq!((&told["parameters"]["prompt"], &told["size"]), (&json!("new"), &json!("48x24")));
            break;
        }
    }
    visitor.say(&json!({ "type": "set", "parameters": { "size": "45x24" } })).await;
    assert!(visitor.text("error").await["hint"].as_str().unwrap().contains("44x24"));
    visitor.say(&json!({ "type": "set", "parameters": { "size": "68x16" } })).await;
    let error = visitor.text("error").await;
    assert_eq!(
        (&error["message"], &error["hint"]),
        (&json!("size 68x16 is larger than this server paints"), &json!(format!("up to {MAX_SIDE} pixels a side")),)
    );
    assert_eq!(error["refused"], json!({ "size": "48x24" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn presets_come_as_the_visitors_own_frame_and_can_be_taken() {
    let server = Running::start(1, None);
    let mut visitor = Visitor::connect(&server).await;
    visitor.painted(&grey(90)).await;
    visitor.say(&json!({ "type": "thumbnails" })).await;
    let (first, _, short) = visitor.binary(Kind::Thumbnail).await;
    let (second, _, long) = visitor.binary(Kind::Thumbnail).await;
    assert_eq!((first, second), (0, 1));
    assert!(mean(&long) > mean(&short) + 5.0);
    visitor.say(&json!({ "type": "preset", "name": "long" })).await;
    let told = visitor.text("parameters").await;
    assert_eq!(
        (&told["parameters"]["prompt"], &told["parameters"]["guidance"]),
        (&json!("a very long prompt"), &json!("1.5"))
    );
    visitor.say(&json!({ "type": "preset", "name": "nonsense" })).await;
    assert!(visitor.text("error").await["message"].as_str().unwrap().contains("nonsense"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_all_places_taken_waits_in_line_and_gets_in() {
    let server = Running::start(2, None);
    let mut inside = vec![Visitor::connect(&server).await, Visitor::connect(&server).await];
    for visitor in &mut inside {
        visitor.text("hello").await;
    }
    let mut third = Visitor::connect(&server).await;
    let waiting = third.text("waiting").await;
    assert_eq!((&waiting["position"], &waiting["sessions"]), (&json!(1), &json!(2)));
    let mut fourth = Visitor::connect(&server).await;
    assert_eq!(fourth.text("waiting").await["position"], 2);
    inside.remove(0).close().await;
    third.text("hello").await;
    while fourth.text("waiting").await["position"] != 1 {}
    // Those inside are served all the while.
    inside[0].painted(&grey(50)).await;
    // Who leaves the line makes room in it.
    third.close().await;
    fourth.text("hello").await;
    let (_, stats) = tokio::task::block_in_place(|| server.ask("GET", "/api/v1/stats", None));
    assert_eq!((stats["sessions"].as_array().unwrap().len(), &stats["waiting"]), (2, &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn visitors_have_parameters_of_their_own() {
    let server = Running::start(2, None);
    let (mut one, mut two) = (Visitor::connect(&server).await, Visitor::connect(&server).await);
    let (a, b) = (one.text("hello").await["session"].clone(), two.text("hello").await["session"].clone());
    assert_ne!(a, b);
    let path = |id: &Value| format!("/api/v1/sessions/{}/parameters", id.as_str().unwrap());
    let body = json!(values(&[("prompt", "only one")])).to_string();
    tokio::task::block_in_place(|| {
        assert_eq!(server.ask("PATCH", &path(&a), Some(&body)).0, 200);
        assert_eq!(server.ask("GET", &path(&a), None).1["prompt"], "only one");
        assert_eq!(server.ask("GET", &path(&b), None).1["prompt"], "");
    });
    assert_eq!(one.text("parameters").await["parameters"]["prompt"], "only one");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_named_with_what_stays_in_force() {
    let server = Running::start(1, None);
    let mut visitor = Visitor::connect(&server).await;
    visitor.text("hello").await;
    let set = |parameters: Value, each| json!({ "type": "set", "parameters": parameters, "each": each });
    visitor.say(&set(json!({ "guidance": 99, "delta": 0.5 }), false)).await;
    let error = visitor.text("error").await;
    assert_eq!(error["refused"], json!({ "guidance": "1.2", "delta": "1" }));
    assert_eq!(error["hint"], "guidance takes a number from 0 to 30");
    // As a page asks after a reload. The table can be short when the step is set, which comes after it by its name.
    let parameters = json!({ "guidance": "99", "delta": 0.5, "nonsense": "1", "t-index": [10], "z": 1, "steps": 20 });
    visitor.say(&set(parameters, true)).await;
    let error = visitor.text("error").await;
    assert_eq!(error["refused"], json!({ "guidance": "1.2", "nonsense": null, "z": null }));
    assert!(error["message"].as_str().unwrap().contains("out of range; there is no parameter \"nonsense\""), "{error}");
    let now = visitor.text("parameters").await["parameters"].clone();
    assert_eq!((&now["delta"], &now["t-index"], &now["steps"]), (&json!("0.5"), &json!("10"), &json!("20")));
    assert_eq!(now["guidance"], "1.2");
}
