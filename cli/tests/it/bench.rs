//! Every measurement at the smallest setting: what it prints and keeps. How long anything takes is not looked at.

use std::path::Path;

use serde_json::Value;

use crate::support::{MISSING, USAGE, has_runtime, names, run};

/// Settings at which a measurement is over at once.
const SMALL: [&str; 8] = ["--provider", "cpu", "--size", "64x64", "--rounds", "1", "--frames", "2"];

#[track_caller]
fn measured(command: &str, flags: &[&str]) -> Value {
    let json = run(["bench", command, "--json"].iter().chain(&SMALL).chain(flags)).json();
    complete(&json);
    assert_eq!((&json["provider"], &json["size"]), (&Value::from("cpu"), &Value::from("64x64")), "{json}");
    json
}

/// Asserts that a result says what it was measured on, and that every figure has a value or a reason.
#[track_caller]
fn complete(json: &Value) {
    for key in ["provider", "precision", "model", "size", "commit", "date"] {
        assert!(json[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {json}");
    }
    assert!(json["machine"]["cpu"].is_string() && json["machine"]["cores"].as_u64() > Some(0), "{json}");
    for key in ["livediffusion", "onnxruntime", "flavour"] {
        assert!(json["versions"][key].is_string(), "{key}: {json}");
    }
    let figures = json["figures"].as_array().unwrap();
    assert!(!figures.is_empty(), "{json}");
    for figure in figures {
        assert!(figure["p50"].is_number() || figure["note"].is_string(), "{figure}");
        if figure["unit"] == "ms" && figure["p50"].is_number() {
            let has = |key: &str| figure[key].is_number();
            assert!((has("p95") && has("p99")) || (has("min") && has("max")) || figure["samples"] == 1, "{figure}");
        }
    }
}

#[track_caller]
fn numbers(json: &Value, keys: &[&str]) {
    for key in keys {
        assert!(json[*key].as_f64().is_some_and(|value| value > 0.0), "{key}: {json}");
    }
}

#[test]
fn overhead() {
    if !has_runtime() {
        return;
    }
    let small: Vec<&str> = SMALL[..6].to_vec();
    let json = run(["bench", "overhead", "--json"].iter().chain(&small)).json();
    complete(&json);
    numbers(&json, &["ratio", "run_fps", "bare_fps"]);
}

#[test]
fn stream_batch_and_rcfg() {
    if !has_runtime() {
        return;
    }
    numbers(&measured("stream-batch", &["--steps", "2"]), &["sequential_over_batched", "sequential_ms", "batched_ms"]);
    let one = measured("rcfg", &["--steps", "2"]);
    numbers(&one, &["full_over_self", "full_over_initialize", "frame_full_over_self"]);
    assert_eq!(one["paper_full_over_self"], 1.64);
    let all = measured("rcfg", &[]);
    assert_eq!(all["steps"].as_array().unwrap().len(), 5);
    for step in all["steps"].as_array().unwrap() {
        numbers(step, &["full_over_self", "full_over_initialize"]);
    }
}

#[test]
fn startup() {
    if !has_runtime() {
        return;
    }
    let json = run(["bench", "startup", "--provider", "cpu", "--rounds", "1", "--json"]).json();
    complete(&json);
    numbers(&json, &["ms", "cold_ms", "process_ms"]);
}

#[test]
fn throughput() {
    if !has_runtime() {
        return;
    }
    let flags = ["--steps", "1", "--cfg", "self", "--frame-buffers", "1,2", "--threads", "2", "--lanes", "2"];
    let json = measured("throughput", &flags);
    let cases = json["cases"].as_array().unwrap();
    for case in cases {
        numbers(case, &["fps", "ms_p50", "ms_p95", "ms_p99"]);
    }
    for (mode, frames) in [("img2img", 1), ("img2img", 2), ("txt2img", 1), ("txt2img", 2)] {
        assert!(
            cases.iter().any(|case| case["mode"] == mode && case["frame_buffer"] == frames),
            "{mode} {frames}: {json}"
        );
    }
    assert!(cases.iter().any(|case| case["lanes"] == 2) && cases.iter().any(|case| case["lanes"] == 1), "{json}");
}

#[test]
fn ablation() {
    if !has_runtime() {
        return;
    }
    let keys = [
        "all_on_fps",
        "without_stream_batch",
        "without_rcfg",
        "without_similarity_filter",
        "without_frame_queue",
        "without_pre_computation",
    ];
    numbers(&measured("ablation", &[]), &keys);
}

#[test]
fn similarity_gives_an_object_a_clip() {
    if !has_runtime() {
        return;
    }
    let done = run(["bench", "similarity", "--json"].iter().chain(&SMALL));
    let clips: Vec<Value> = done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(clips.iter().map(|clip| &clip["clip"]).collect::<Vec<_>>(), ["static", "talking", "moving"]);
    for clip in &clips {
        complete(clip);
        numbers(clip, &["cpu_seconds_ratio"]);
        assert!(clip["skipped_share"].is_number() && clip["made_of"].is_string(), "{clip}");
        assert!(clip["joules_ratio"].is_number() || clip["joules_reason"].is_string(), "{clip}");
    }
}

#[test]
fn latency() {
    if !has_runtime() {
        return;
    }
    let json = measured("latency", &["--fps", "20"]);
    for load in ["paced", "overloaded"] {
        assert!(json[load]["drop_rate"].is_number(), "{json}");
        numbers(&json[load]["end_to_end"], &["p50_ms", "p95_ms", "p99_ms"]);
        numbers(&json[load]["stages"]["denoise"], &["p50_ms", "p95_ms", "p99_ms"]);
    }
}

#[test]
fn roofline() {
    if !has_runtime() {
        return;
    }
    let json = measured("roofline", &["--matrix", "64"]);
    numbers(&json, &["ratio", "frame_gflop", "networks_gflop_per_s", "matmul_gflop_per_s"]);
    numbers(&json["parts_gflop"], &["unet", "vae_encoder", "vae_decoder"]);
}

#[test]
fn gpu_has_every_stage_of_a_frame_and_what_is_between_them() {
    if !has_runtime() {
        return;
    }
    let json = measured("gpu", &["--steps", "1,2", "--cfg", "none,initialize", "--matrix", "64"]);
    let cases = json["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 4, "{json}");
    let figures = json["figures"].as_array().unwrap();
    let of = |case: &str, name: &str| {
        let found = figures.iter().find(|figure| figure["case"] == case && figure["figure"] == name);
        found.unwrap_or_else(|| panic!("{case}: {name}: {json}"))["p50"].as_f64()
    };
    for case in ["N=1 none", "N=1 initialize", "N=2 none", "N=2 initialize"] {
        for stage in ["preprocess", "encode", "denoise", "advance", "decode", "postprocess"] {
            assert!(of(case, stage) > Some(0.0), "{case}: {stage}: {json}");
        }
        assert!(of(case, "end to end") > Some(0.0) && of(case, "picture to picture") > Some(0.0), "{case}: {json}");
        let outside = of(case, "outside the networks").unwrap();
        assert!((0.0..1.0).contains(&outside), "{case}: {outside}: {json}");
        assert!(of(case, "networks over matmul") > Some(0.0), "{case}: {json}");
    }
    assert!(of("unet", "arithmetic of a call") > Some(0.0), "{json}");
    let brief = measured("gpu", &["--steps", "1", "--cfg", "none", "--brief"]);
    let has = |name: &str| brief["figures"].as_array().unwrap().iter().any(|figure| figure["figure"] == name);
    assert!(has("speed") && has("denoise") && has("memory of the card"), "{brief}");
    assert!(!has("networks over matmul") && !has("arithmetic of a call"), "{brief}");
}

#[test]
fn gpu_hands_out_what_was_measured_before_another_provider_failed() {
    if !has_runtime() {
        return;
    }
    let few = [
        "bench", "gpu", "--json", "--size", "64x64", "--rounds", "1", "--frames", "2", "--steps", "1", "--cfg", "none",
        "--matrix", "64",
    ];
    // The library has no such provider.
    let done = run(few.iter().chain(&["--providers", "cpu,directml"]));
    let json: Value = serde_json::from_str(done.stdout.lines().next().unwrap_or_default()).unwrap();
    complete(&json);
    assert_eq!(json["provider"], "cpu");
    done.refused_after_output(MISSING, &["directml"]);
}

#[test]
fn scaling() {
    if !has_runtime() {
        return;
    }
    let json = measured("scaling", &["--streams", "1,2"]);
    let groups = json["scaling"].as_array().unwrap();
    assert_eq!(groups.iter().map(|group| &group["streams"]).collect::<Vec<_>>(), [1, 2]);
    for group in groups {
        numbers(group, &["fps_total", "fps_each", "over_first"]);
    }
}

#[test]
fn what_cannot_be_compared_is_null_with_a_reason() {
    if !has_runtime() {
        return;
    }
    let json = measured("compare", &["--python", "/nowhere/python", "--steps", "1"]);
    for peer in ["torch_f32", "torch_bf16", "openvino_bf16"] {
        assert!(json["ours_over"][peer].is_null() && json["not_measured"][peer].is_string(), "{json}");
    }
}

#[test]
fn the_record_becomes_pictures_and_a_section() {
    if !has_runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (record, plots, readme) = (path("record"), path("plots"), path("README.md"));
    run(["bench", "plot", "--record", &record]).refused(USAGE, &["record"]);
    measured("stream-batch", &["--steps", "1", "--record", &record]);
    measured("stream-batch", &["--steps", "2", "--record", &record]);
    let device = names(Path::new(&record)).remove(0);
    let file = names(&Path::new(&record).join(&device)).remove(0);
    let text = std::fs::read_to_string(Path::new(&record).join(&device).join(&file)).unwrap();
    assert_eq!((text.lines().count(), text.matches("date,command").count()), (7, 1), "{text}");
    let drawn = run(["bench", "plot", "--record", &record, "--output", &plots]);
    let files: Vec<&str> = drawn.stdout.lines().collect();
    assert_eq!((drawn.code, files.len()), (Some(0), 2), "{}", drawn.stderr);
    assert!(std::fs::read_to_string(files[0]).unwrap().starts_with("<svg"));

    std::fs::write(&readme, "no marks\n").unwrap();
    run(["bench", "report", "--record", &record, "--readme", &readme]).refused(USAGE, &["README.md"]);
    std::fs::write(&readme, "a\n<!-- bench:begin -->\n<!-- bench:end -->\nb\n").unwrap();
    assert_eq!(run(["bench", "report", "--record", &record, "--readme", &readme]).code, Some(0));
    let text = std::fs::read_to_string(&readme).unwrap();
    assert!(text.contains("N=2") && text.contains("Not measured: GPUs") && text.ends_with("b\n"), "{text}");
}
