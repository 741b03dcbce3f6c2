//! `run` given settings that mean nothing: flags, config files, providers, libraries.

use std::process::Stdio;

use crate::support::{Done, MISSING, RUNNING, USAGE, command, has_runtime, names, run};

/// Runs with these flags added, and asserts that nothing was written.
#[track_caller]
fn refused(flags: &[&str], code: i32, named: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.mp4").display().to_string();
    let usual = ["run", "--input", "test://ball?frames=8", "--output", &output];
    // What is refused only by the engine would be refused after providers were measured, which is said.
    let provider: &[&str] = if flags.contains(&"--provider") { &[] } else { &["--provider", "cpu"] };
    run(usual.iter().chain(provider).chain(flags)).refused(code, named);
    assert!(names(folder.path()).is_empty(), "left behind: {:?}", names(folder.path()));
}

#[test]
fn sizes() {
    refused(&["--size", "250x256"], USAGE, &["250x256", "hint:256x256"]);
    refused(&["--size", "250x131"], USAGE, &["250x131", "hint:256x1"]);
    refused(&["--size", "0x0"], USAGE, &["0x0"]);
    refused(&["--size", "-64x64"], USAGE, &["-64x64"]);
    refused(&["--size", "99999x64"], USAGE, &["99999x64"]);
    refused(&["--size", "large"], USAGE, &["large", "hint:WxH"]);
}

#[test]
fn denoising_steps() {
    for list in ["50", "32,99", "47,32", "32,32", "", ",", "-1", "1.5", "a,b", "18446744073709551616"] {
        refused(&["--t-index", list], USAGE, &["hint:--t-index"]);
    }
    refused(&["--steps", "0"], USAGE, &["steps"]);
    refused(&["--frame-buffer", "0"], USAGE, &["frame-buffer"]);
    refused(&["--frame-buffer", "1000000"], USAGE, &["frame-buffer"]);
}

#[test]
fn numbers_and_words() {
    for guidance in ["-1", "nan", "inf", "strong", "1e99"] {
        refused(&["--guidance", guidance], USAGE, &["guidance", guidance, "hint:--guidance takes"]);
    }
    refused(&["--delta", "x"], USAGE, &["delta"]);
    refused(&["--similarity", "2"], USAGE, &["similarity"]);
    refused(&["--cfg", "half"], USAGE, &["cfg", "hint:initialize"]);
    refused(&["--scheduler", "euler9"], USAGE, &["scheduler"]);
    refused(&["--seed", "-3"], USAGE, &["seed"]);
    refused(&["--prompt", &"a".repeat(10_001)], USAGE, &["prompt", "too long"]);
    refused(&["--frames", "0"], USAGE, &["frames"]);
}

#[test]
fn providers_and_libraries() {
    refused(&["--provider", "gpu"], USAGE, &["gpu", "hint:cuda"]);
    refused(&["--precision", "f8"], USAGE, &["f8", "hint:bf16"]);
    refused(&["--ort-lib", "/nosuch/libonnxruntime.so"], MISSING, &["/nosuch/libonnxruntime.so"]);
    let folder = tempfile::tempdir().unwrap();
    refused(&["--ort-lib", folder.path().to_str().unwrap()], MISSING, &[folder.path().to_str().unwrap()]);
    let text = folder.path().join("libonnxruntime.so");
    std::fs::write(&text, "no library").unwrap();
    refused(&["--ort-lib", text.to_str().unwrap()], MISSING, &["libonnxruntime.so"]);
    if !has_runtime() {
        return;
    }
    refused(&["--precision", "int8"], USAGE, &["no networks in int8", "hint:model_int8.onnx"]);
    let card = livediffusion_kernels::cuda::Driver::find();
    for provider in ["cuda", "tensorrt", "tensorrt-rtx"] {
        // With a card it depends on what was set up for it.
        if card.is_err() {
            refused(&["--provider", provider], MISSING, &[provider, "hint:--provider auto"]);
        }
    }
}

#[test]
fn config_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.toml");
    let file = path.to_str().unwrap();
    for (text, named) in [
        ("nosuch = 1", "nosuch"),
        ("[section]\nguidance = 1", "section"),
        ("guidance = \"strong\"", "guidance"),
        ("guidance = [1, 2]", "guidance"),
        ("frames = \"many\"", "frames"),
        ("frames = -1", "frames"),
        ("provider = \"gpu\"", "gpu"),
        ("provider = 3", "provider"),
        ("fit = \"squeeze\"", "squeeze"),
        ("threads = 0", "threads"),
        ("frames = 0", "frames"),
        ("threads = 70000", "threads"),
        ("duration = -1.0", "duration"),
        ("size = \"250x256\"", "250x256"),
        ("t-index = [47, 32]", "t-index"),
        ("this is no TOML", "line 1"),
        ("prompt = \"unfinished", "bad.toml"),
        ("guidance = 1\nguidance = 2", "line 2"),
    ] {
        std::fs::write(&path, text).unwrap();
        println!("{text:?}");
        let named: &[&str] = if named.contains("250") { &[named] } else { &["bad.toml", named] };
        refused(&["--config", file], USAGE, named);
    }
    std::fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
    refused(&["--config", file], USAGE, &["bad.toml"]);
    refused(&["--config", "/nosuch.toml"], USAGE, &["/nosuch.toml"]);
    refused(&["--config", folder.path().to_str().unwrap()], USAGE, &[folder.path().to_str().unwrap()]);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let mut child =
        command(["models", "list", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let done = Done::from(child.wait_with_output().unwrap());
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
}

#[test]
fn results_that_cannot_be_written_are_a_failure() {
    let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") else {
        println!("skipped: there is no /dev/full");
        return;
    };
    let output = command(["models", "list"]).stdout(full).output().unwrap();
    Done::from(output).refused(RUNNING, &["standard output"]);
}

#[test]
fn other_commands() {
    run(["models", "inspect", "nosuch"]).refused(USAGE, &["nosuch"]);
    run(["doctor", "--ort-lib", "/nosuch", "--json"]).refused_after_output(MISSING, &["checks failed"]);
    run(["bench", "overhead", "--input", "nosuch.mp4"]).refused(USAGE, &["nosuch.mp4"]);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    run(["demo", "--input", "nosuch.mp4", "--output", out.to_str().unwrap()]).refused(USAGE, &["nosuch.mp4"]);
    assert!(!out.exists(), "a refused demo made its folder");
    std::fs::write(&out, "").unwrap();
    run(["demo", "--output", out.to_str().unwrap()]).refused(USAGE, &[out.to_str().unwrap()]);
}
