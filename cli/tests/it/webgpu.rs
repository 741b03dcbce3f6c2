//! WebGPU through ONNX Runtime's plug-in, on Vulkan in software: Chromium brings SwiftShader, which is slow and exact.

use std::path::Path;
use std::process::Command;

use crate::support::{Done, cache, command, packs, project};

/// Where Debian's Chromium has it.
const SWIFTSHADER: &str = "/usr/lib/chromium/vk_swiftshader_icd.json";

/// Whether the library with the plug-in and a Vulkan in software are there; prints why a test is skipped if not.
fn has_webgpu() -> bool {
    if !Path::new(SWIFTSHADER).exists() {
        println!("skipped: no {SWIFTSHADER} (tools/setup/browser.sh)");
        return false;
    }
    // Whether it is there, and not what comes of it: a library that refuses or crashes is no reason to skip.
    let libraries = cache().join("ort").read_dir().into_iter().flatten();
    let found = libraries.filter_map(Result::ok).any(|it| it.file_name().to_string_lossy().starts_with("webgpu-"));
    if !found {
        println!("skipped: no WebGPU plug-in (tools/setup/webgpu.sh)");
    }
    found
}

fn on_swiftshader<const N: usize>(args: [&str; N]) -> Command {
    let mut command = command(args);
    // The plug-in asks ONNX Runtime for a GPU, which does not know of one in software, and Vulkan for the device.
    command.env("VK_ICD_FILENAMES", SWIFTSHADER).env("ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER", "1");
    command.env_remove("LIVEDIFFUSION_WEBGPU_LIB").env_remove("ORT_DYLIB_PATH");
    command
}

fn run<const N: usize>(args: [&str; N]) -> Done {
    on_swiftshader(args).output().unwrap().into()
}

/// Whole packs, loaded as they always are: all networks at once.
#[test]
fn golden_cases_pass_on_webgpu() {
    if !has_webgpu() {
        return;
    }
    let models = packs();
    for case in ["sd15_t4_init_g2.0_d0.5", "sdxlturbo_t1_none"] {
        let file = project().join(format!("assets/goldens/cases/{case}.json"));
        let (file, models) = (file.to_str().unwrap(), models.to_str().unwrap());
        let done = run(["replay", file, "--models", models, "--provider", "webgpu", "--json"]);
        assert_eq!(done.code, Some(0), "{case}: {}", done.stderr);
        let json: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
        println!(
            "{case}: {:.1e} of {:.0e}",
            json["worst_error"].as_f64().unwrap(),
            json["tolerance"].as_f64().unwrap()
        );
        assert_eq!(json["passed"], true, "{case}");
    }
}

/// The text encoder works on one thread while the others paint: the device that they share is not made for that.
#[test]
fn prompts_change_while_frames_are_painted_on_webgpu() {
    if !has_webgpu() {
        return;
    }
    let arguments = ["--model", "models/default", "--size", "64x64", "--rounds", "1", "--frames", "6"];
    let mut command =
        on_swiftshader(["bench", "prompts", "--every", "2", "--fps", "2", "--provider", "webgpu", "--json"]);
    let done: Done = command.args(arguments).output().unwrap().into();
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stdout.contains("changing"), "{}", done.stdout);
}
