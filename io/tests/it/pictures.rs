use livediffusion_pipeline::frame::{FrameMeta, Size};

use crate::support;

const SIZE: Size = Size::new(40, 24);

fn gray(i: u64) -> Vec<u8> {
    vec![(i * 20) as u8; SIZE.pixels() * 3]
}

#[test]
fn a_folder_of_pictures_is_written_and_read_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("frames");
    let mut sink = support::sink(&out, SIZE, Some((25, 1)), None).unwrap();
    for i in 0..12 {
        sink.push(FrameMeta { id: i, pts_ns: None, duration_ns: None }, &gray(i)).unwrap();
    }
    let report = sink.finish().unwrap();
    assert_eq!((report.frames, report.path.as_deref()), (12, Some(out.as_path())));
    let names = support::names(&out);
    assert_eq!((names.len(), names[0].as_str(), names[11].as_str()), (12, "frame_000000.png", "frame_000011.png"));

    let read = support::read(&out, SIZE.width, SIZE.height);
    assert_eq!(read.metas.len(), 12);
    assert_eq!((read.info.framerate, read.info.frames_estimate, read.info.natural), (Some((25, 1)), Some(12), SIZE));
    for (i, (meta, picture)) in read.metas.iter().zip(&read.pictures).enumerate() {
        assert_eq!((meta.pts_ns, meta.duration_ns), (Some(i as u64 * 40_000_000), Some(40_000_000)));
        assert!(support::difference(picture, &gray(i as u64)) <= 1.5, "picture {i}");
    }
}

#[test]
fn a_shorter_run_leaves_no_picture_of_a_longer_one() {
    let folder = tempfile::tempdir().unwrap();
    for count in [5, 2] {
        let mut sink = support::sink(folder.path(), SIZE, None, None).unwrap();
        (0..count).for_each(|i| sink.push(FrameMeta::default(), &gray(i)).unwrap());
        sink.finish().unwrap();
    }
    assert_eq!(support::names(folder.path()), ["frame_000000.png", "frame_000001.png"]);
}

#[test]
fn formats_and_sizes_may_differ_and_a_bad_picture_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let encoders =
        [("1.png", "pngenc", 64), ("2.jpg", "jpegenc", 80), ("10.webp", "webpenc", 32), ("9.bmp", "avenc_bmp", 48)];
    for (name, encoder, width) in encoders {
        let path = folder.path().join(name);
        support::run(&format!(
            "videotestsrc num-buffers=1 pattern=red ! video/x-raw,width={width},height=48 ! videoconvert ! {encoder} ! filesink location={}",
            path.display()
        ));
    }
    std::fs::write(folder.path().join("3.png"), b"\x89PNG\r\n\x1a\nnot much of a picture").unwrap();
    std::fs::write(folder.path().join("notes.txt"), "not a picture").unwrap();
    let read = support::read(folder.path(), 32, 32);
    assert_eq!((read.metas.len(), read.corrupt), (4, 1));
    assert_eq!(read.info.natural, Size::new(64, 48));
    for (i, picture) in read.pictures.iter().enumerate() {
        assert!(picture[0] > 200 && picture[1] < 60, "picture {i}: {:?}", &picture[..3]);
    }
}
