//! `--loop`: inputs that begin again at their end.

use serde_json::Value;

use crate::streams::{reread, summary};
use crate::support::{USAGE, has_runtime, run};

#[test]
fn files_get_every_frame_of_every_pass() {
    if !has_runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out.mp4");
    let out = file.to_str().unwrap();
    let json = summary(&["-i", "test://ball?frames=5", "-o", out, "--loop", "--frames", "12", "--lanes", "2"]);
    let counts = ["frames_in", "frames_out", "frames_dropped", "loops"].map(|name| json[name].as_u64().unwrap());
    assert_eq!(counts, [12, 12, 0, 2], "{json}");
    assert_eq!(reread(&file).0, 12);
    // A photo becomes a video.
    let photo = folder.path().join("photo.png");
    image::RgbImage::from_fn(80, 60, |x, y| image::Rgb([x as u8, y as u8, 90])).save(&photo).unwrap();
    let json = summary(&["-i", photo.to_str().unwrap(), "-o", out, "--loop", "--duration", "0.5"]);
    assert_eq!((&json["frames_out"], &json["loops"]), (&Value::from(13), &Value::from(0)), "{json}");
    assert_eq!(reread(&file).0, 13);
}

#[test]
fn what_is_watched_goes_on_at_its_own_speed() {
    if !has_runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("loop.toml");
    std::fs::write(&config, "loop = true\n").unwrap();
    let input = ["-i", "test://ball?frames=15", "-o", "fakesink", "--frames", "40"];
    let json = summary(&[&input[..], &["--config", config.to_str().unwrap()]].concat());
    assert_eq!((&json["frames_out"], &json["source_losses"]), (&Value::from(40), &Value::from(0)), "{json}");
    assert!(json["loops"].as_u64().unwrap() >= 2, "{json}");
    // Fifteen frames take half a second.
    assert!(json["elapsed_ms"].as_f64().unwrap() > 1_000.0, "{json}");
}

#[test]
fn what_cannot_go_round_is_refused() {
    let refused = |flags: &[&str], named: &[&str]| run(["run", "--loop"].iter().chain(flags)).refused(USAGE, named);
    for input in ["noise://", "camera://", "screen://", "rtsp://127.0.0.1:9/x"] {
        refused(&["-i", input, "-o", "fakesink", "--frames", "3"], &[input, "cannot begin again", "hint:--loop"]);
    }
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    refused(&["-i", pipe.to_str().unwrap(), "-o", "fakesink"], &["pipe", "cannot begin again"]);
    // Secrets stay where they are.
    let camera = run(["run", "--loop", "-i", "rtsp://user:hush@127.0.0.1:9/x", "-o", "fakesink"]);
    assert!(camera.stderr.contains("cannot begin again") && !camera.stderr.contains("hush"), "{}", camera.stderr);
    let files = ["-i", "test://ball?frames=5", "-o", "out.mp4", "-o", "frames/"];
    refused(&files, &["never ends", "hint:--duration"]);
}
