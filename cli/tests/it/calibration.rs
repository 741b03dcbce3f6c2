//! Providers are measured at the first start, and not at the second.

use std::path::Path;

use serde_json::Value;

use crate::support::{Done, command, copy_of, has_runtime, link_libraries, names};

/// What is said while it is measured.
const MEASURING: &str = "measuring providers once";

/// The binary with a cache of its own.
fn with_cache(cache: &Path, args: &[&str]) -> Done {
    command(args).env("LIVEDIFFUSION_CACHE", cache).output().unwrap().into()
}

/// Whether there is a choice: an OpenVINO library, and hence also the CPU's own provider.
fn has_choice() -> bool {
    if !has_runtime() {
        return false;
    }
    let doctor = command(["doctor", "--json"]).output().unwrap();
    let json: Value = serde_json::from_slice(&doctor.stdout).unwrap();
    let openvino = |check: &Value| check["name"] == "provider openvino" && check["verdict"] == "ok";
    let found = json["checks"].as_array().unwrap().iter().any(openvino);
    if !found {
        println!("skipped: the library has no OpenVINO, so that there is nothing to choose");
    }
    found
}

fn check<'a>(doctor: &'a Value, name: &str) -> Option<&'a Value> {
    doctor["checks"].as_array().unwrap().iter().find(|check| check["name"] == name)
}

#[test]
fn the_first_run_measures_and_the_second_knows() {
    if !has_choice() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (cache, pack) = (folder.path(), copy_of("tiny-sdturbo"));
    link_libraries(cache);
    let pack = pack.path().to_str().unwrap();
    let run =
        ["run", "-v", "-m", pack, "--size", "64x64", "-i", "test://ball", "-o", "fakesink", "--frames", "2", "--json"];
    let doctor = ["doctor", "--json", "-m", pack];

    let before = with_cache(cache, &doctor).json();
    assert_eq!(
        (&before["calibration"], &check(&before, "measured").unwrap()["verdict"]),
        (&Value::Null, &"absent".into())
    );

    let first = with_cache(cache, &run);
    let chosen = first.json();
    assert!(first.stderr.contains(MEASURING) && first.stderr.contains("auto: measured here"), "{}", first.stderr);
    let kept = cache.join("calibration");
    assert_eq!(names(&kept).len(), 1);

    let second = with_cache(cache, &run);
    let again = second.json();
    assert!(!second.stderr.contains(MEASURING) && second.stderr.contains("auto: measured here"), "{}", second.stderr);
    assert_eq!((&chosen["provider"], &chosen["precision"]), (&again["provider"], &again["precision"]));

    let after = with_cache(cache, &doctor).json();
    let rows = after["calibration"].as_array().unwrap();
    let winners: Vec<&Value> = rows.iter().filter(|row| row["verdict"].as_str().unwrap().ends_with("chosen")).collect();
    assert_eq!(winners.len(), 1, "{rows:?}");
    assert_eq!((&winners[0]["provider"], &winners[0]["precision"]), (&again["provider"], &again["precision"]));
    assert!(rows.len() >= 2 && rows.iter().all(|row| row["ms"].as_f64().unwrap() > 0.0), "{rows:?}");
    assert_eq!(check(&after, "measured"), None);

    // A damaged file is measured anew, and so is what doctor is asked to.
    let file = kept.join(&names(&kept)[0]);
    std::fs::write(&file, "{").unwrap();
    assert!(with_cache(cache, &run).stderr.contains(MEASURING));
    let calibrated = with_cache(cache, &["doctor", "--calibrate", "-m", pack]);
    assert!(calibrated.stderr.contains(MEASURING) && calibrated.stdout.contains("chosen"), "{}", calibrated.stdout);

    // Flags that fix both leave nothing to measure.
    let fixed = with_cache(cache, &[&run[..], &["--provider", "openvino", "--precision", "f32"]].concat());
    assert!(!fixed.stderr.contains(MEASURING), "{}", fixed.stderr);
}

#[test]
fn a_cache_that_cannot_be_written_is_a_warning() {
    if !has_choice() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (cache, pack) = (folder.path(), copy_of("tiny-sdturbo"));
    link_libraries(cache);
    // A file where the folder should be: root could write into any folder.
    std::fs::write(cache.join("calibration"), "").unwrap();
    let pack = pack.path().to_str().unwrap();
    let run = ["run", "-m", pack, "--size", "64x64", "-i", "test://ball", "-o", "fakesink", "--frames", "1", "--json"];
    let done = with_cache(cache, &run);
    assert_eq!(done.json()["frames_out"], 1);
    assert_eq!(done.stderr.matches("cannot be kept").count(), 1, "{}", done.stderr);
}
