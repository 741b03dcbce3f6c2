//! The sound of what is repainted.

use std::path::Path;
use std::process::Command;

use crate::streams::summary;
use crate::support::has_runtime;

/// Time of the last piece of an MP4's sound, in seconds. Without `decodebin`, whose queues may wait for the pictures that nobody takes.
fn sound(path: &Path) -> f64 {
    let pipeline = format!(
        "filesrc location={} ! qtdemux name=d d.audio_0 ! aacparse ! avdec_aac ! fakesink silent=false",
        path.display()
    );
    let output = Command::new("gst-launch-1.0").args(["-v"]).args(pipeline.split(' ')).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let last = said.lines().rfind(|line| line.contains("chain") && line.contains("pts: ")).unwrap();
    let time = last.split("pts: ").nth(1).unwrap().split(',').next().unwrap();
    time.split(':').fold(0.0, |seconds, part| 60.0 * seconds + part.parse::<f64>().unwrap())
}

/// Pictures that are far apart, and sound that goes on behind the last of them.
#[test]
fn sound_is_as_long_as_it_was() {
    if !has_runtime() {
        return;
    }
    if Command::new("gst-launch-1.0").arg("--version").output().is_err() {
        return eprintln!("skipped: no gst-launch-1.0 (apt-get install gstreamer1.0-tools)");
    }
    let folder = tempfile::tempdir().unwrap();
    let (clip, out) = (folder.path().join("clip.mp4"), folder.path().join("out.mp4"));
    let made = format!(
        "videotestsrc num-buffers=4 ! video/x-raw,framerate=1/1,width=64,height=64 ! x264enc tune=zerolatency ! mp4mux name=m ! filesink location={} \
         audiotestsrc samplesperbuffer=4410 num-buffers=80 ! audio/x-raw,rate=44100 ! avenc_aac ! m.",
        clip.display()
    );
    let status = Command::new("gst-launch-1.0").arg("-q").args(made.split_whitespace()).status().unwrap();
    assert!(status.success());
    let before = sound(&clip);
    assert!((7.5..8.5).contains(&before), "{before} s");
    summary(&["-i", clip.to_str().unwrap(), "-o", out.to_str().unwrap()]);
    let after = sound(&out);
    assert!((before - after).abs() < 0.1, "{after} s of {before} s");
    summary(&["-i", clip.to_str().unwrap(), "-o", out.to_str().unwrap(), "--frames", "2"]);
    let cut = sound(&out);
    assert!((1.7..2.1).contains(&cut), "{cut} s beside two seconds of pictures");
}
