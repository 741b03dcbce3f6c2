//! A model with a ControlNet from outside: what it is shown can be looked at, and does something.

use std::path::Path;

use image::RgbImage;

use crate::support::{has_runtime, names, project, run};

const FRAMES: usize = 4;

/// The pictures of a run of the pack with a ControlNet, with these arguments more.
fn pictures(folder: &Path, more: &[&str]) -> Vec<RgbImage> {
    let pack = project().join("onnx/tests/data/control");
    let out = format!("{}/", folder.display());
    let usual = ["run", "--input", "test://ball", "--frames", "4", "--size", "128x64", "--provider", "cpu", "--model"];
    let done = run(usual.into_iter().chain([pack.to_str().unwrap(), "--output", &out]).chain(more.iter().copied()));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(!done.stderr.contains("no ControlNet"), "{}", done.stderr);
    let files = names(folder);
    assert_eq!(files.len(), FRAMES);
    files.iter().map(|name| image::open(folder.join(name)).unwrap().to_rgb8()).collect()
}

#[test]
fn edges_are_shown_and_steer() {
    if !has_runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let made = |name: &str, more: &[&str]| pictures(&folder.path().join(name), more);
    let edges = made("edges", &["--show-control", "true"]);
    for picture in &edges {
        let count = |value| picture.pixels().filter(|pixel| pixel.0 == [value; 3]).count();
        // A ball's outline on black.
        assert_eq!(count(0) + count(255), 128 * 64);
        assert!((20..600).contains(&count(255)), "{}", count(255));
    }
    assert_ne!(edges[0], edges[3], "the ball moves");
    let [without, with, grey] = [
        made("without", &["--control-scale", "0"]),
        made("with", &["--control-scale", "1"]),
        made("grey", &["--preprocessor", "gray"]),
    ];
    assert!(without != with && with != grey, "what it is shown does nothing");
}

#[test]
fn a_model_without_one_says_so() {
    if !has_runtime() {
        return;
    }
    let usual = ["run", "--input", "test://ball", "--output", "fakesink", "--frames", "1", "--provider", "cpu"];
    let done = run(usual.into_iter().chain(["--control-scale", "0.5", "--canny-low", "10"]));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stderr.contains("since the model has no ControlNet: control-scale, canny-low"), "{}", done.stderr);
}
