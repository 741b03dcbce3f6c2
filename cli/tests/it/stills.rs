//! One picture in, one picture out.

use std::path::Path;

use crate::support::{Done, has_runtime, names, run};

fn repaint(from: &str, to: &Path, more: &[&str]) -> Done {
    let fixed = ["run", "--provider", "cpu", "--size", "128x128", "-i", from, "-o", to.to_str().unwrap()];
    run(fixed.iter().chain(more))
}

#[test]
fn a_photo_is_painted_into_another_and_never_over_itself() {
    if !has_runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (photo, painted) = (folder.path().join("photo.jpg"), folder.path().join("painted.png"));
    // One of many: the last is kept, which is said.
    let several = repaint("test://ball", &photo, &["--frames", "3"]);
    assert!(several.code == Some(0) && several.stderr.contains("the last of 3 pictures"), "{}", several.stderr);
    let from = photo.to_str().unwrap();
    let one = repaint(from, &painted, &["--json"]);
    assert!(one.stderr.is_empty(), "{}", one.stderr);
    let json = one.json();
    assert_eq!((json["frames_in"].as_u64(), json["frames_out"].as_u64()), (Some(1), Some(1)), "{json}");
    for (path, format) in [(&photo, image::ImageFormat::Jpeg), (&painted, image::ImageFormat::Png)] {
        let read = image::ImageReader::open(path).unwrap().with_guessed_format().unwrap();
        assert_eq!((read.format(), read.into_dimensions().unwrap()), (Some(format), (128, 128)));
    }
    let before = std::fs::read(&photo).unwrap();
    repaint(from, &photo, &[]).refused(2, &["is the input and the output", "hint:another name"]);
    assert_eq!(std::fs::read(&photo).unwrap(), before);
    assert_eq!(names(folder.path()), ["painted.png", "photo.jpg"]);
}
