//! Presets of a pack: listed, taken, refused.

use crate::support::{USAGE, has_runtime, packs, run};

#[test]
fn the_default_pack_has_one_for_each_style() {
    let json = run(["models", "presets", "--json"]).json();
    let presets = json["presets"].as_array().unwrap();
    assert!(presets.len() >= 20, "{json}");
    for preset in presets {
        assert!(!preset["prompt"].as_str().unwrap().is_empty() && preset["t_index"].is_array(), "{preset}");
        assert!(preset["guidance"].is_number(), "{preset}");
    }
    let text = run(["models", "presets"]).stdout;
    assert_eq!(text.lines().count(), presets.len());
    assert!(text.contains("stained-glass") && text.contains("t-index 47"), "{text}");
    let without = packs().join("tiny-sd15");
    assert!(run(["models", "presets", "--model", without.to_str().unwrap()]).stdout.contains("has no presets"));
    run(["models", "presets", "--model", "nosuch"]).refused(USAGE, &["nosuch"]);
}

#[test]
fn an_unknown_preset_is_a_usage_error() {
    let usual = ["run", "--input", "test://ball", "--output", "fakesink", "--preset", "crayon"];
    run(usual).refused(USAGE, &["crayon", "hint:oil-painting", "hint:film-noir"]);
    let pack = packs().join("tiny-sd15");
    run(usual.iter().chain(&["--model", pack.to_str().unwrap()])).refused(USAGE, &["crayon", "hint:--prompt"]);
    run(["bench", "overhead", "--preset", "crayon"]).refused(USAGE, &["crayon"]);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "preset = \"crayon\"").unwrap();
    run(["run", "--input", "test://ball", "--output", "fakesink", "--config", file.path().to_str().unwrap()])
        .refused(USAGE, &["crayon", "hint:oil-painting"]);
}

#[test]
fn a_preset_runs() {
    if !has_runtime() {
        return;
    }
    let run = run([
        "run",
        "--input",
        "test://ball",
        "--output",
        "fakesink",
        "--frames",
        "2",
        "--preset",
        "pencil-sketch",
        "--json",
    ]);
    assert_eq!(run.json()["frames_out"], 2);
}
