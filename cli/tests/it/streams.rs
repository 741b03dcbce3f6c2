//! Streams that run to their end, or to where the user ends them.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use livediffusion_io::{Input, Next, SourceInfo, SourceOptions, VideoSource};
use livediffusion_pipeline::frame::Size;
use serde_json::Value;

use crate::support::{command, has_runtime, names, packs, run};

/// Runs on the CPU at a small size and gives the summary.
#[track_caller]
pub(crate) fn summary(flags: &[&str]) -> Value {
    run(["run", "--provider", "cpu", "--size", "128x128", "--json"].iter().chain(flags)).json()
}

/// Reads a video to its end.
pub(crate) fn reread(path: &Path) -> (u64, SourceInfo) {
    let input = Input::parse(path.to_str().unwrap()).unwrap();
    let mut source = VideoSource::open(&input, &SourceOptions::new(Size::new(128, 128))).unwrap();
    let mut frames = 0;
    loop {
        match source.next(Duration::from_secs(30)).unwrap() {
            Next::Frame(_) => frames += 1,
            Next::End => return (frames, source.info().clone()),
            Next::TimedOut => panic!("{} hangs", path.display()),
        }
    }
}

#[test]
fn the_summary_says_what_happened() {
    if !has_runtime() {
        return;
    }
    let json = summary(&["-i", "test://ball", "-o", "fakesink", "--frames", "12"]);
    assert_eq!((&json["frames_in"], &json["frames_out"]), (&Value::from(12), &Value::from(12)), "{json}");
    for zero in ["frames_skipped", "frames_dropped", "frames_corrupt", "frames_failed"] {
        assert_eq!(json[zero], 0, "{json}");
    }
    for positive in ["fps", "time_to_first_frame_ms", "peak_rss_mb", "elapsed_ms"] {
        assert!(json[positive].as_f64().unwrap() > 0.0, "{positive}: {json}");
    }
    assert!(json["time_to_first_frame_ms"].as_f64() <= json["elapsed_ms"].as_f64());
    assert_eq!((&json["provider"], &json["size"]), (&Value::from("cpu"), &Value::from("128x128")));
    assert_eq!((&json["input"], &json["output"]), (&Value::from("test://ball"), &Value::from("fakesink")));
    assert_eq!(json["stopped"], false);
    let stages = json["stages"].as_object().unwrap();
    for stage in ["encode", "denoise", "decode"] {
        let stage = &stages[stage];
        assert_eq!(stage["count"], 12, "{json}");
        let [p50, p95, p99] = ["p50_ms", "p95_ms", "p99_ms"].map(|key| stage[key].as_f64().unwrap());
        assert!(0.0 < p50 && p50 <= p95 && p95 <= p99, "{stage}");
    }
}

#[test]
fn logs_go_to_stderr_as_much_as_asked_for() {
    if !has_runtime() {
        return;
    }
    let with = |flag: &str| run(["run", "-i", "test://ball", "-o", "fakesink", "--frames", "2", "--json", flag]);
    let (quiet, verbose) = (with("-q"), with("-v"));
    assert_eq!(quiet.stderr, "");
    assert_eq!(quiet.json()["frames_out"], 2);
    assert!(verbose.stderr.contains("INFO"), "{}", verbose.stderr);
    assert_eq!(verbose.json()["frames_out"], 2);
}

#[test]
fn the_table_names_the_same_things() {
    if !has_runtime() {
        return;
    }
    let done = run(["run", "-i", "test://ball", "-o", "fakesink", "--frames", "3", "--provider", "cpu"]);
    assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
    for part in ["test://ball -> fakesink", "on cpu", "3 in, 3 out, 0 skipped, 0 dropped", "fps", "p95"] {
        assert!(done.stdout.contains(part), "{part:?}: {}", done.stdout);
    }
}

#[test]
fn a_file_keeps_its_frames_and_its_sound() {
    if !has_runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for name in ["out.mp4", "out.mkv"] {
        let path = folder.path().join(name);
        let json = summary(&["-i", "assets/bigbuckbunny.mp4", "-o", path.to_str().unwrap(), "--frames", "20"]);
        assert_eq!(json["frames_out"], 20);
        let (frames, info) = reread(&path);
        assert_eq!((frames, info.natural), (20, Size::new(128, 128)), "{name}");
        assert!(info.audio.is_some(), "{name} has no sound");
    }
    assert_eq!(names(folder.path()), ["out.mkv", "out.mp4"]);
}

#[test]
fn every_parameter_at_once() {
    if !has_runtime() {
        return;
    }
    let mut flags = vec!["-i", "test://ball?frames=11", "-o", "fakesink"];
    flags.extend(["--t-index", "32,45", "--cfg", "initialize", "--guidance", "1.3", "--negative-prompt", "dull"]);
    flags.extend(["--frame-buffer", "2", "--similarity", "0.98", "--prompt", "oil painting", "--seed", "7"]);
    let json = summary(&flags);
    // 11 frames do not fill the last frame buffer: none is lost for it.
    assert_eq!((&json["frames_in"], &json["frames_out"]), (&Value::from(11), &Value::from(11)), "{json}");
    let still = summary(&["-i", "test://smpte?frames=11", "-o", "fakesink", "--similarity", "0.9"]);
    assert_eq!(still["frames_out"], 11);
    assert!(still["frames_skipped"].as_u64().unwrap() > 0, "{still}");
    assert!(still["saved_by_skipping_ms"].as_f64().unwrap() > 0.0, "{still}");
}

#[test]
fn pictures_from_noise() {
    if !has_runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let output = format!("{}/frames/", folder.path().display());
    let json = summary(&["-i", "noise://", "-o", &output, "--frames", "3", "--prompt", "a fox"]);
    assert_eq!((&json["frames_in"], &json["frames_out"]), (&Value::from(3), &Value::from(3)), "{json}");
    assert_eq!(names(&folder.path().join("frames")).len(), 3);
    // Half a second at 25 frames a second, and --frames the smaller.
    assert_eq!(summary(&["-i", "noise://", "-o", "fakesink", "--duration", "0.2"])["frames_out"], 5);
    let both = summary(&["-i", "noise://", "-o", "fakesink", "--duration", "0.2", "--frames", "2"]);
    assert_eq!(both["frames_out"], 2);
}

#[test]
fn flags_win_over_the_config_file() {
    if !has_runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.toml");
    let model = packs().join("tiny-sd15").display().to_string();
    let text = format!(
        "input = \"test://ball\"\noutput = \"fakesink\"\nmodel = {model:?}\nprovider = \"cpu\"\nframes = 3\n\
         size = \"64x64\"\nt_index = [32, 45]\nguidance = 1.2\nprompt = \"a fox\"\nfit = \"stretch\"\nthreads = 1\n"
    );
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let json = run(["run", "--config", file, "--json"]).json();
    assert_eq!((&json["frames_out"], &json["size"]), (&Value::from(3), &Value::from("64x64")), "{json}");
    assert_eq!((&json["model"], &json["provider"]), (&Value::from(model), &Value::from("cpu")), "{json}");
    let flags = ["--frames", "5", "--size", "128x64", "--input", "test://snow", "--t-index", "32"];
    let json = run(["run", "--config", file, "--json"].iter().chain(&flags)).json();
    assert_eq!((&json["frames_out"], &json["size"]), (&Value::from(5), &Value::from("128x64")), "{json}");
    assert_eq!(json["input"], "test://snow");
}

#[test]
fn ctrl_c_finishes_the_file() {
    if !has_runtime() {
        return;
    }
    for input in ["test://ball", "test://ball?live&fps=30"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.mp4");
        let output = path.to_str().unwrap();
        let args = ["run", "-i", input, "-o", output, "--provider", "cpu", "--size", "128x128", "--json"];
        let child = command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // In the middle: once the temporary file is there, and a while later, for it grows in large blocks.
        let (mut looks, mut later) = (0, 0);
        while later < 30 {
            std::thread::park_timeout(Duration::from_millis(50));
            looks += 1;
            later += u32::from(!names(folder.path()).is_empty());
            assert!(looks < 1200, "nothing was written");
        }
        assert!(!path.exists(), "an unfinished file has the final name");
        let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        assert!(killed.success());
        let done = crate::support::Done::from(child.wait_with_output().unwrap());
        let json = done.json();
        assert_eq!(json["stopped"], true, "{json}");
        let (frames, _) = reread(&path);
        println!("{input}: {frames} frames, {} dropped", json["frames_dropped"]);
        assert!(frames > 0);
        assert_eq!(
            (Value::from(frames), &json["frames_in"]),
            (json["frames_out"].clone(), &json["frames_out"]),
            "{json}"
        );
        assert_eq!(names(folder.path()), ["out.mp4"]);
    }
}

#[test]
fn the_same_seed_gives_the_same_pictures() {
    if !has_runtime() {
        return;
    }
    let pictures = |flags: &[&str]| -> Vec<Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        let output = format!("{}/frames/", folder.path().display());
        let usual = ["-i", "test://ball?frames=4", "-o", &output];
        summary(&[&usual, flags].concat());
        let frames = folder.path().join("frames");
        names(&frames).iter().map(|name| std::fs::read(frames.join(name)).unwrap()).collect()
    };
    for mode in [&[][..], &["--t-index", "32,45", "--stream-batch", "false"]] {
        let of = |flags: &[&str]| pictures(&[mode, flags].concat());
        let first = of(&["--seed", "1"]);
        assert_eq!(first.len(), 4);
        assert!(first == of(&["--seed", "1"]), "{mode:?}: not deterministic");
        let other = of(&["--seed", "2"]);
        assert!(first.iter().zip(&other).all(|(a, b)| a != b), "{mode:?}: the seed has no effect");
        assert!(first != of(&["--seed", "1", "--prompt", "pencil sketch"]), "{mode:?}: the prompt has no effect");
    }
}

#[test]
fn the_machine_is_described() {
    if !has_runtime() {
        return;
    }
    let doctor = run(["doctor", "--json"]).json();
    let checks = doctor["checks"].as_array().unwrap();
    assert!(checks.len() > 5);
    for check in checks {
        assert!(["ok", "absent"].contains(&check["verdict"].as_str().unwrap()), "{check}");
    }
    let table = run(["doctor"]);
    assert_eq!((table.code, table.stderr.as_str()), (Some(0), ""));
    assert!(run(["devices", "--json"]).json()["devices"].is_array());
    assert_eq!(run(["devices"]).code, Some(0));
}

#[test]
fn packs_are_listed_and_described() {
    let models = run(["models", "list", "--json"]).json();
    let default = models["models"].as_array().unwrap().iter().find(|model| model["name"] == "default").unwrap();
    assert!(default["bytes"].as_u64().unwrap() > 1000, "{default}");
    assert!(run(["models", "list"]).stdout.contains("default"));
    let pack = run(["models", "inspect", "--json"]).json();
    assert_eq!((&pack["defaults"]["size"], &pack["can"][1]), (&Value::from("256x256"), &Value::from("img2img")));
    let parts: Vec<&str> =
        pack["parts"].as_array().unwrap().iter().map(|part| part["name"].as_str().unwrap()).collect();
    println!("{parts:?}");
    for part in pack["parts"].as_array().unwrap() {
        assert!(!part["inputs"].as_array().unwrap().is_empty() && !part["outputs"].as_array().unwrap().is_empty());
    }
    for golden in ["tiny-sd15", "tiny-sd15-kl", "tiny-sdturbo", "tiny-sdxlturbo"] {
        let pack = run(["models", "inspect", "--json", packs().join(golden).to_str().unwrap()]).json();
        assert_eq!(pack["can"].as_array().unwrap().len(), 3, "{golden}: {}", pack["can"]);
    }
    let named = command(["models", "list", "--json"]).env("LIVEDIFFUSION_MODELS", packs()).output().unwrap();
    assert!(String::from_utf8(named.stdout).unwrap().contains("tiny-sdxlturbo"));
}

/// The model is loaded while the camera runs: neither a limit nor a recording may count that time.
#[test]
fn a_live_input_begins_when_the_engine_is_ready() {
    if !has_runtime() {
        return;
    }
    let json = summary(&["-i", "test://ball?live", "-o", "fakesink", "--duration", "1"]);
    let (seen, dropped) = (json["frames_in"].as_u64().unwrap(), json["frames_dropped"].as_u64().unwrap());
    // A second at 30 frames a second, taken or dropped for lack of speed; before, it was one frame. A busy machine may
    // overwrite many, but those count as dropped.
    assert!(seen >= 2 && seen + dropped >= 20, "{json}");
}

#[test]
fn switches_stand_alone_or_take_a_word() {
    if !has_runtime() {
        return;
    }
    for flags in [&["--vae-sample"][..], &["--add-noise", "false"], &["--stream-batch=false"]] {
        let flags: Vec<&str> =
            flags.iter().copied().chain(["-i", "test://ball", "-o", "fakesink", "--frames", "2"]).collect();
        assert_eq!(summary(&flags)["frames_out"], 2, "{flags:?}");
    }
}

/// Pictures that are input must not be written over, and those of a failed run must not be gone.
#[test]
fn a_folder_of_pictures_is_only_replaced_by_whole_ones() {
    if !has_runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let frames = folder.path().join("frames");
    let text = frames.to_str().unwrap();
    summary(&["-i", "test://ball", "-o", text, "--frames", "5"]);
    let before: Vec<Vec<u8>> = names(&frames).iter().map(|name| std::fs::read(frames.join(name)).unwrap()).collect();
    run(["run", "-i", text, "-o", text]).refused(2, &["is the input and the output", "hint:another folder"]);
    let after: Vec<Vec<u8>> = names(&frames).iter().map(|name| std::fs::read(frames.join(name)).unwrap()).collect();
    assert_eq!(before, after);
    summary(&["-i", "test://smpte", "-o", text, "--frames", "3"]);
    assert_eq!(names(&frames), ["frame_000000.png", "frame_000001.png", "frame_000002.png"]);
    // What another program numbered in the same way is not ours to remove.
    let theirs = frames.join("frame_000009.png");
    std::fs::write(&theirs, "another's").unwrap();
    run(["run", "-i", "test://ball", "-o", text, "--frames", "2"]).refused(2, &["frame_000009.png exists"]);
    assert_eq!(std::fs::read(theirs).unwrap(), b"another's");
}

#[test]
fn a_video_is_not_replaced_by_its_own_repaint() {
    let folder = tempfile::tempdir().unwrap();
    let clip = folder.path().join("clip.mp4");
    std::fs::copy("../assets/bigbuckbunny.mp4", &clip).unwrap();
    let link = folder.path().join("link.mp4");
    std::os::unix::fs::symlink(&clip, &link).unwrap();
    let before = std::fs::read(&clip).unwrap();
    for (from, to) in [(&clip, &clip), (&link, &clip)] {
        let flags = ["run", "-i", from.to_str().unwrap(), "-o", to.to_str().unwrap(), "--frames", "2"];
        run(flags).refused(2, &["is the input and the output", "hint:another name"]);
    }
    assert!(std::fs::read(&clip).unwrap() == before);
}

/// What a camera gave before it failed cannot be had again: the recording is finished, and then the failure is told.
#[test]
fn a_live_recording_survives_a_source_that_fails() {
    if !has_runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("camera.mp4");
    let camera = "videotestsrc is-live=true ! video/x-raw,framerate=30/1 ! identity error-after=90";
    let arguments = ["run", "--provider", "cpu", "--size", "128x128", "-i", camera, "-o", file.to_str().unwrap()];
    run(arguments.iter().chain(&["--retry", "off"])).refused(1, &["frames before that were kept"]);
    assert!(reread(&file).0 > 0);
    assert_eq!(names(folder.path()), ["camera.mp4"]);
}

#[test]
fn several_outputs_get_the_same_pictures_and_one_that_fails_leaves_the_others_alone() {
    if !has_runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let [mp4, webm, frames] = ["out.mp4", "out.webm", "frames/"].map(|name| path(name).display().to_string());
    let usual = ["-i", "assets/bigbuckbunny.mp4", "-o", &mp4, "-o", &frames, "--record", &webm, "--frames", "12"];
    let json = summary(&usual);
    assert_eq!(json["output"], serde_json::json!([mp4, frames.trim_end_matches('/').to_owned() + "/", webm]), "{json}");
    for name in ["out.mp4", "out.webm"] {
        let (count, info) = reread(&path(name));
        assert_eq!(count, 12, "{name}");
        assert!(info.audio.is_some(), "{name} has no sound");
    }
    assert_eq!(names(&path("frames")).len(), 12);

    let failing = ["-o", "identity error-after=3 ! fakesink", "-o", &mp4, "-i", "test://ball", "--frames", "30"];
    let done = run(["run", "--provider", "cpu", "--size", "64x64", "--json"].iter().chain(&failing));
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    assert!(done.stderr.contains("the other outputs go on"), "{}", done.stderr);
    assert_eq!(reread(&path("out.mp4")).0, 30);
    assert_eq!(names(folder.path()), ["frames", "out.mp4", "out.webm"]);
}

#[test]
fn outputs_that_cannot_be_together() {
    let with = |flags: &[&str]| run(["run", "-i", "test://ball"].iter().chain(flags));
    with(&["-o", "a.mp4", "-o", "a.mp4"]).refused(2, &["a.mp4 is an output twice"]);
    with(&["-o", "a.mp4", "-o", "./a.mp4"]).refused(2, &["./a.mp4 is an output twice"]);
    with(&["-o", "fakesink", "--record", "frames/"]).refused(2, &["--record frames/"]);
}

#[test]
fn a_config_file_has_one_output_or_a_list() {
    if !has_runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.toml");
    let (a, b) = (folder.path().join("a.mp4"), folder.path().join("b.mkv"));
    let with = |output: &str| {
        std::fs::write(&file, format!("input = \"test://ball\"\nframes = 3\noutput = {output}\n")).unwrap();
        run(["run", "--json", "--provider", "cpu", "--size", "64x64", "--config", file.to_str().unwrap()])
    };
    assert_eq!(with("\"fakesink\"").json()["output"], "fakesink");
    with(&format!("[{a:?}, {b:?}]")).json();
    assert_eq!((reread(&a).0, reread(&b).0), (3, 3));
    with("7").refused(2, &["output", "a string or a list"]);
}

/// The commands of `--print-pipeline` are what runs here: they run there too.
#[test]
fn printed_pipelines_run() {
    let folder = tempfile::tempdir().unwrap();
    let [file, playlist, frames] =
        ["a b.mkv", "hls/index.m3u8", "50 %/frames/"].map(|name| folder.path().join(name).display().to_string());
    std::fs::create_dir_all(&frames).unwrap();
    let outputs =
        ["-o", &file, "-o", &playlist, "-o", &frames, "-o", "videoflip ! fakesink", "-o", "srt://127.0.0.1:9"];
    let printed = run(["run", "--print-pipeline", "-i", "test://ball?frames=9"].iter().chain(&outputs));
    assert_eq!((printed.code, printed.stderr.as_str()), (Some(0), ""));
    let lines: Vec<&str> = printed.stdout.lines().collect();
    assert_eq!(lines.len(), 6, "{lines:#?}");
    assert!(lines[5].contains("srtsink") && lines[5].contains("tune=zerolatency"), "{}", lines[5]);
    // `hlssink2` of GStreamer 1.22 now and then hangs on pictures that come faster than in real time: looked at, not run.
    assert!(lines[2].contains("hlssink2") && lines[2].contains(&playlist), "{}", lines[2]);
    for line in [lines[0], lines[1], lines[3], lines[4]] {
        let short = line.replace("autovideosink sync=false", "fakesink").replace("is-live=false !", "num-buffers=9 !");
        let done = Command::new("sh").args(["-c", &short]).output().unwrap();
        assert!(done.status.success(), "{short}: {}", String::from_utf8_lossy(&done.stderr));
    }
    assert_eq!(reread(Path::new(&file)).0, 9);
    assert_eq!(names(Path::new(&frames)).len(), 9);
    let rtsp = run(["run", "--print-pipeline", "-i", "rtsp://host/x", "-o", "rtmp://host/live/key"]).stdout;
    assert!(rtsp.contains("source::latency=200") && rtsp.contains("rtmp2sink 'location="), "{rtsp}");
}
