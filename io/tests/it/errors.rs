use std::path::Path;
use std::process::Command;

use livediffusion_io::{ErrorKind, Input, IoError, Next, Output, VideoSource};
use livediffusion_pipeline::frame::{FrameMeta, Size};

use crate::support::{self, LONG};

fn open_error(path: &Path) -> IoError {
    match support::open(path.to_str().unwrap(), &support::options(32, 32)) {
        Ok(_) => panic!("{} opened", path.display()),
        Err(error) => {
            println!("{error} / hint: {:?}", error.hint());
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(error.to_string().contains(name) && !error.to_string().contains('\n'), "{error}");
            error
        }
    }
}

#[test]
fn inputs_that_are_no_video_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    assert!(matches!(open_error(&folder.path().join("none.mp4")), IoError::MissingInput { .. }));
    assert!(matches!(open_error(&file("empty.mp4", b"")), IoError::EmptyInput { .. }));
    let garbage: Vec<u8> = (0..50_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    assert!(matches!(open_error(&file("garbage.mp4", &garbage)), IoError::Corrupt { .. }));
    assert!(matches!(open_error(&file("text.mp4", b"hello, this is text\n")), IoError::Corrupt { .. }));
    let sound = folder.path().join("sound.mp4");
    support::run(&format!("audiotestsrc num-buffers=40 ! avenc_aac ! mp4mux ! filesink location={}", sound.display()));
    assert!(matches!(open_error(&sound), IoError::NoVideo { .. }));
    let wav = folder.path().join("sound.wav");
    support::run(&format!("audiotestsrc num-buffers=40 ! wavenc ! filesink location={}", wav.display()));
    assert!(matches!(open_error(&wav), IoError::NoVideo { .. }));
    let empty = folder.path().join("no-pictures");
    std::fs::create_dir(&empty).unwrap();
    assert!(matches!(open_error(&empty), IoError::EmptyInput { .. }));
}

#[test]
fn a_file_that_goes_away_after_parsing_is_missing() {
    let input = Input::File("gone.mp4".into());
    assert!(matches!(VideoSource::open(&input, &support::options(8, 8)), Err(IoError::MissingInput { .. })));
}

#[test]
fn an_address_that_does_not_answer_is_unreachable() {
    for uri in ["http://127.0.0.1:1/clip.mp4", "rtsp://127.0.0.1:1/clip"] {
        let error = support::open(uri, &support::options(8, 8)).err().unwrap();
        println!("{error} / {:?}", error.hint());
        assert!(matches!(error, IoError::Unreachable { .. } | IoError::MissingPlugin { .. }), "{error:?}");
    }
    let error = support::open("foo://bar", &support::options(8, 8)).err().unwrap();
    assert!(matches!(error, IoError::MissingPlugin { .. }), "{error:?}");
}

#[test]
fn a_truncated_file_gives_what_it_has_or_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(support::mp4(folder.path())).unwrap();
    // The index is at the end: without it there is nothing.
    let tail = folder.path().join("tail.mp4");
    std::fs::write(&tail, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(open_error(&tail).kind(), ErrorKind::Runtime);
    let clip = folder.path().join("clip.mkv");
    support::run(&format!(
        "videotestsrc num-buffers=50 pattern=snow ! video/x-raw,width=64,height=64,framerate=25/1 ! x264enc ! matroskamux ! filesink location={}",
        clip.display()
    ));
    let bytes = std::fs::read(&clip).unwrap();
    std::fs::write(&clip, &bytes[..bytes.len() / 2]).unwrap();
    let mut source = support::open(clip.to_str().unwrap(), &support::options(32, 32)).unwrap();
    let (read, error) = support::drain(&mut source);
    println!("{} frames, then {error:?}", read.metas.len());
    assert!((5..50).contains(&read.metas.len()), "{}", read.metas.len());
}

#[test]
fn bad_bytes_in_the_middle_do_not_end_the_stream() {
    let folder = tempfile::tempdir().unwrap();
    let clip = folder.path().join("clip.mp4");
    support::run(&format!(
        "videotestsrc num-buffers=50 pattern=snow ! video/x-raw,width=128,height=128,framerate=25/1 \
         ! x264enc key-int-max=10 bframes=0 ! mp4mux ! filesink location={}",
        clip.display()
    ));
    let mut bytes = std::fs::read(&clip).unwrap();
    let middle = bytes.len() / 2;
    // Whole pictures become nothing, others noise.
    bytes[middle..middle + 30_000].fill(0);
    bytes[middle + 50_000..middle + 60_000].iter_mut().for_each(|byte| *byte ^= 0x5a);
    std::fs::write(&clip, &bytes).unwrap();
    let mut source = support::open(clip.to_str().unwrap(), &support::options(64, 64)).unwrap();
    let (read, error) = support::drain(&mut source);
    println!("{} frames, {} corrupt, {error:?}", read.metas.len(), read.corrupt);
    assert!(error.is_none(), "{error:?}");
    assert!(read.metas.len() > 30, "{}", read.metas.len());
    assert!(read.corrupt > 0);
    assert_eq!(read.metas.len() as u64 + read.corrupt, 50);
    let last = read.metas.last().unwrap().pts_ns.unwrap();
    assert_eq!(last, 49 * 40_000_000);
}

#[test]
fn fragments_name_the_element_at_fault() {
    let error = support::open("videotestsrc ! nosuchelement", &support::options(8, 8)).err().unwrap();
    assert!(matches!(&error, IoError::MissingElement { element } if element == "nosuchelement"), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Missing);
    let error = support::open("videotestsrc ! fakesink", &support::options(8, 8)).err().unwrap();
    assert!(matches!(error, IoError::BadFragment { .. }), "{error:?}");
    let error = support::open("videotestsrc nosuch=1 ! videoconvert", &support::options(8, 8)).err().unwrap();
    assert!(error.is_usage(), "{error:?}");
    let error = support::open("test://nosuchpattern", &support::options(8, 8)).err().unwrap();
    assert!(error.to_string().contains("smpte"), "{error}");
    let size = Size::new(8, 8);
    for (output, kind) in [("nosuch ! fakesink", ErrorKind::Missing), ("videoconvert", ErrorKind::Usage)] {
        let error = support::sink(Path::new(output), size, None, None).err().unwrap();
        assert_eq!(error.kind(), kind, "{output}: {error}");
    }
}

#[test]
fn outputs_that_cannot_be_written_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let size = Size::new(64, 64);
    std::fs::write(folder.path().join("file"), "").unwrap();
    for name in ["none/out.mp4", "file/out.mp4", "none/deeper/frames/"] {
        let error = support::sink(&folder.path().join(name), size, None, None).err().unwrap();
        println!("{error} / {:?}", error.hint());
        assert!(matches!(error, IoError::Unwritable { .. }) && error.is_usage(), "{error:?}");
    }
    let error = support::sink(Path::new("/proc/out.mp4"), size, None, None).err().unwrap();
    assert!(matches!(error, IoError::Unwritable { .. }), "{error:?}");
    assert_eq!(support::names(folder.path()), ["file"]);

    let out = folder.path().join("out.mp4");
    std::fs::write(&out, "").unwrap();
    let mut options = livediffusion_io::SinkOptions::new(size, None);
    options.overwrite = false;
    let opened = livediffusion_io::VideoSink::open(&Output::parse(out.to_str().unwrap()).unwrap(), options);
    assert!(matches!(opened, Err(IoError::OutputExists { .. })));
}

#[test]
fn what_was_there_stays_where_no_picture_came() {
    let folder = tempfile::tempdir().unwrap();
    let (video, pictures) = (folder.path().join("out.mp4"), folder.path().join("frames/"));
    let size = Size::new(64, 64);
    for path in [&video, &pictures] {
        let mut sink = support::sink(path, size, Some((25, 1)), None).unwrap();
        sink.push(FrameMeta::default(), &[9; 64 * 64 * 3]).unwrap();
        sink.finish().unwrap();
    }
    let read = || (std::fs::read(&video).unwrap(), std::fs::read(pictures.join("frame_000000.png")).unwrap());
    let before = read();
    for path in [&video, &pictures] {
        let report = support::sink(path, size, Some((25, 1)), None).unwrap().finish().unwrap();
        assert_eq!((report.frames, report.path), (0, None));
    }
    assert!(read() == before);
    assert_eq!(support::names(folder.path()), ["frames", "out.mp4"]);
}

#[test]
fn a_picture_of_the_wrong_size_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = support::sink(&folder.path().join("o.mp4"), Size::new(64, 64), None, None).unwrap();
    assert!(matches!(sink.push(FrameMeta::default(), &[0; 7]), Err(IoError::WrongSize { .. })));
}

#[test]
fn a_sink_that_fails_while_running_ends_the_push() {
    let output = "identity error-after=3 ! fakesink";
    let mut sink = support::sink(Path::new(output), Size::new(64, 64), Some((25, 1)), None).unwrap();
    let mut push = || (0..1000).try_for_each(|_| sink.push(FrameMeta::default(), &[0; 64 * 64 * 3]));
    assert_eq!(push().unwrap_err().kind(), ErrorKind::Runtime);
}

#[test]
fn a_full_disk_is_named_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let small = folder.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(&small).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        println!("skipped: a small file system cannot be mounted here");
        return;
    }
    let mut failures = Vec::new();
    for name in ["out.mp4", "out.webm", "frames/"] {
        let size = Size::new(128, 128);
        let mut source = support::open("test://snow?frames=200&size=128x128", &support::options(128, 128)).unwrap();
        let mut sink = support::sink(&small.join(name), size, Some((30, 1)), None).unwrap();
        let error = loop {
            match source.next(LONG).unwrap() {
                Next::Frame(frame) => {
                    if let Err(error) = sink.push(frame.meta(), &support::packed(&frame)) {
                        sink.abort();
                        break Some(error);
                    }
                }
                _ => break sink.finish().err(),
            }
        };
        failures.push((error, support::names(&small)));
        let _ = std::fs::remove_dir_all(small.join("frames"));
    }
    let unmounted = Command::new("umount").arg(&small).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    for (i, (error, names)) in failures.into_iter().enumerate() {
        println!("{error:?} {names:?}");
        assert!(matches!(error, Some(IoError::DiskFull { .. })), "{error:?}");
        if i < 2 {
            assert!(names.is_empty(), "{names:?}");
        }
    }
}
