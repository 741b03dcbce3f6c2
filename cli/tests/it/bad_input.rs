//! `run` given files that are missing, damaged or not what they claim to be, and outputs that cannot be written.

use std::path::Path;
use std::process::Command;

use livediffusion_onnx::graph::proto::ValueInfoProto;
use livediffusion_onnx::graph::{Change, Part, rewrite};

use crate::support::{MISSING, RUNNING, USAGE, copy_of, has_runtime, names, packs, project, run};

/// Runs one frame of a small stream into a new folder with these arguments, which win over the usual ones, and asserts a
/// refusal that leaves the folder empty.
#[track_caller]
fn refused(args: &[(&str, &str)], code: i32, named: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.mp4").display().to_string();
    let pack = packs().join("tiny-sd15").display().to_string();
    let usual = [
        ("--input", "test://ball?frames=8"),
        ("--output", &output),
        ("--model", &pack),
        ("--provider", "cpu"),
        ("--size", "64x64"),
    ];
    let kept = usual.iter().filter(|(flag, _)| !args.iter().any(|(given, _)| given == flag));
    let all = kept.chain(args).flat_map(|(flag, value)| [*flag, *value]);
    run(std::iter::once("run").chain(all)).refused(code, named);
    assert!(names(folder.path()).is_empty(), "left behind: {:?}", names(folder.path()));
}

/// Bytes without any meaning.
fn garbage() -> Vec<u8> {
    (0..50_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// One second of silence: 16-bit mono at 8 kHz.
fn wav() -> Vec<u8> {
    let samples = 8000_u32;
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + 2 * samples).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16_u32.to_le_bytes());
    bytes.extend([1, 0, 1, 0]);
    bytes.extend(8000_u32.to_le_bytes());
    bytes.extend(16000_u32.to_le_bytes());
    bytes.extend([2, 0, 16, 0]);
    bytes.extend(b"data");
    bytes.extend((2 * samples).to_le_bytes());
    bytes.resize(bytes.len() + 2 * samples as usize, 0);
    bytes
}

#[test]
fn videos_that_are_none() {
    let clip = std::fs::read(project().join("assets/bigbuckbunny.mp4")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    refused(&[("--input", "/nosuch/clip.mp4")], USAGE, &["/nosuch/clip.mp4"]);
    refused(&[("--input", "nosuch.mp4")], USAGE, &["nosuch.mp4"]);
    for (name, bytes, code) in [
        ("empty.mp4", &[][..], USAGE),
        ("garbage.mp4", &garbage(), RUNNING),
        ("head.mp4", &clip[..2000], RUNNING),
        ("text.mkv", b"hello, this is text\n", RUNNING),
        ("sound.wav", &wav(), USAGE),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        refused(&[("--input", path.to_str().unwrap())], code, &[name]);
    }
    let pictures = folder.path().join("no-pictures");
    std::fs::create_dir(&pictures).unwrap();
    refused(&[("--input", pictures.to_str().unwrap())], USAGE, &["no-pictures"]);
}

#[test]
fn inputs_that_name_nothing() {
    refused(&[("--input", "")], USAGE, &[]);
    refused(&[("--input", "test://nosuchpattern")], USAGE, &["nosuchpattern"]);
    refused(&[("--input", "/dev/video97")], MISSING, &["/dev/video97", "hint:devices"]);
    refused(&[("--input", "videotestsrc ! nosuchelement")], MISSING, &["nosuchelement"]);
    refused(&[("--input", "http://127.0.0.1:1/clip.mp4")], RUNNING, &["127.0.0.1:1"]);
    refused(&[("--input", "noise://")], USAGE, &["never ends", "hint:--frames"]);
}

#[test]
fn packs_that_are_none() {
    refused(&[("--model", "/nosuch")], USAGE, &["/nosuch"]);
    refused(&[("--model", "nosuchpack")], USAGE, &["nosuchpack", "hint:default"]);
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().display().to_string();
    refused(&[("--model", &empty)], USAGE, &[&empty]);
    let file = project().join("Cargo.toml").display().to_string();
    refused(&[("--model", &file)], USAGE, &["Cargo.toml"]);
}

/// A golden pack after `damage`.
#[track_caller]
fn refused_pack(damage: impl FnOnce(&Path), named: &[&str]) {
    let pack = copy_of("tiny-sd15");
    damage(pack.path());
    let model = pack.path().to_str().unwrap();
    refused(&[("--model", model)], USAGE, named);
}

#[test]
fn packs_with_a_part_missing() {
    for part in ["unet", "vae_decoder", "text_encoder"] {
        refused_pack(|pack| std::fs::remove_dir_all(pack.join(part)).unwrap(), &[part]);
    }
    refused_pack(
        |pack| std::fs::remove_dir_all(pack.join("vae_encoder")).unwrap(),
        &["vae_encoder/", "hint:VAE encoder"],
    );
    refused_pack(|pack| std::fs::remove_dir_all(pack.join("tokenizer")).unwrap(), &["tokenizer"]);
    refused_pack(|pack| std::fs::remove_file(pack.join("unet/model.onnx")).unwrap(), &["unet", "model.onnx"]);
    refused_pack(|pack| std::fs::remove_file(pack.join("model_index.json")).unwrap(), &["model_index.json"]);
}

#[test]
fn packs_with_a_damaged_file() {
    for part in ["unet", "vae_encoder", "vae_decoder", "text_encoder"] {
        let file = format!("{part}/model.onnx");
        let cut = |pack: &Path| {
            let bytes = std::fs::read(pack.join(&file)).unwrap();
            std::fs::write(pack.join(&file), &bytes[..bytes.len() * 2 / 3]).unwrap();
        };
        refused_pack(cut, &[&file]);
        refused_pack(|pack| std::fs::write(pack.join(&file), garbage()).unwrap(), &[&file]);
        refused_pack(|pack| std::fs::write(pack.join(&file), "").unwrap(), &[&file]);
    }
    for (file, named) in [
        ("model_index.json", "model_index.json"),
        ("scheduler/scheduler_config.json", "scheduler/scheduler_config.json"),
        // Four files can make a tokenizer: the message names the folder.
        ("tokenizer/tokenizer.json", "tokenizer"),
    ] {
        refused_pack(|pack| std::fs::write(pack.join(file), "{ no json").unwrap(), &[named]);
    }
    let wrong = r#"{"num_train_timesteps": "many"}"#;
    let file = "scheduler/scheduler_config.json";
    refused_pack(|pack| std::fs::write(pack.join(file), wrong).unwrap(), &[file]);
    let toml = "[defaults]\nguidance = \"strong\"\n";
    refused_pack(|pack| std::fs::write(pack.join("pack.toml"), toml).unwrap(), &["pack.toml", "guidance"]);
}

#[test]
fn graphs_that_do_not_fit() {
    // Another rank than a latent has.
    let flat = |pack: &Path| {
        let file = pack.join("unet/model.onnx");
        let edited = rewrite(&std::fs::read(&file).unwrap(), |part| match part {
            Part::Input(v) if v.name == "sample" => {
                let tensor = ValueInfoProto::tensor("sample", 1, &["batch", "4", "height"]);
                Change::Replace(vec![Part::Input(tensor)])
            }
            _ => Change::Keep,
        });
        std::fs::write(file, edited.unwrap()).unwrap();
    };
    refused_pack(flat, &["unet/model.onnx", "rank 3"]);
    // A network where another should be.
    let swap = |from: &'static str, to: &'static str| {
        move |pack: &Path| {
            let [from, to] = [from, to].map(|part| pack.join(part).join("model.onnx"));
            let bytes = std::fs::read(from).unwrap();
            std::fs::write(to, bytes).unwrap();
        }
    };
    refused_pack(swap("vae_decoder", "unet"), &["unet/model.onnx"]);
    refused_pack(swap("text_encoder", "vae_decoder"), &["vae_decoder/model.onnx"]);
    refused_pack(swap("unet", "text_encoder"), &["text_encoder/model.onnx"]);
}

#[test]
fn outputs_that_cannot_be_written() {
    if !has_runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    refused(&[("--output", &path("none/out.mp4"))], USAGE, &["none", "hint:mkdir"]);
    refused(&[("--output", &path("file/out.mp4"))], USAGE, &["file"]);
    refused(&[("--output", &path("none/deeper/frames/"))], USAGE, &["none"]);
    refused(&[("--output", &path("out.xyz"))], USAGE, &["out.xyz", "hint:extension"]);
    refused(&[("--output", "/proc/out.mp4")], USAGE, &["/proc"]);
    refused(&[("--output", "nosuchelement ! fakesink")], MISSING, &["nosuchelement"]);
    refused(&[("--output", "videoconvert")], USAGE, &["videoconvert"]);
    refused(&[("--output", "identity error-after=3 ! fakesink")], RUNNING, &[]);
    assert_eq!(names(folder.path()), ["file"]);
}

#[test]
fn a_stream_that_breaks_off_leaves_the_old_file_alone() {
    if !has_runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let pack = packs().join("tiny-sd15").display().to_string();
    let broken = "videotestsrc num-buffers=60 ! video/x-raw,width=64,height=64 ! identity error-after=10";
    for name in ["out.mp4", "out.mkv", "out.webm"] {
        let output = folder.path().join(name);
        std::fs::write(&output, "what was there before").unwrap();
        let flags = ["--model", &pack, "--provider", "cpu", "--size", "64x64", "--t-index", "32"];
        let usual = ["run", "--input", broken, "--output", output.to_str().unwrap()];
        run(usual.iter().chain(&flags)).refused(RUNNING, &[]);
        assert_eq!(std::fs::read(&output).unwrap(), b"what was there before");
    }
    assert_eq!(names(folder.path()), ["out.mkv", "out.mp4", "out.webm"]);
}

#[test]
fn a_disk_that_is_full() {
    if !has_runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let small = folder.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(&small).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        println!("skipped: a small file system cannot be mounted here");
        return;
    }
    let pack = packs().join("tiny-sd15").display().to_string();
    let output = small.join("out.mp4").display().to_string();
    let done = run([
        "run",
        "--input",
        "test://snow?frames=120",
        "--output",
        &output,
        "--model",
        &pack,
        "--provider",
        "cpu",
        "--size",
        "256x256",
        "--t-index",
        "32",
    ]);
    let left = names(&small);
    assert!(Command::new("umount").arg(&small).status().unwrap().success());
    done.refused(RUNNING, &["out.mp4", "hint:df -h"]);
    assert!(left.is_empty(), "left behind: {left:?}");
}
