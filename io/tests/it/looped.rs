//! Inputs that begin again at their end.

use std::path::Path;
use std::time::Duration;

use livediffusion_io::{
    Input, IoError, LiveNext, LiveSource, Output, Outputs, OutputsOptions, Retry, SourceOptions, VideoSource,
};
use livediffusion_pipeline::frame::{FrameMeta, Size};
use livediffusion_pipeline::stats::{Clock as _, MonotonicClock};

use crate::support;

const SIZE: Size = Size::new(64, 64);

fn looped(input: &str, options: &SourceOptions) -> LiveSource {
    let input = Input::parse(input).unwrap();
    LiveSource::looped(VideoSource::open(&input, options).unwrap(), input, options, None)
}

/// All that a source gives; what it failed with, if it did.
fn read(source: &mut LiveSource) -> (Vec<(FrameMeta, Vec<u8>)>, Option<IoError>) {
    let mut frames = Vec::new();
    let mut quiet = 0;
    loop {
        match source.next(Duration::from_millis(100)) {
            LiveNext::Frame(frame) => frames.push((frame.meta(), support::packed(&frame))),
            LiveNext::Away(meta) => panic!("away at {meta:?}"),
            LiveNext::TimedOut => quiet += 1,
            LiveNext::End => return (frames, None),
            LiveNext::Failed(error) => return (frames, Some(error)),
        }
        assert!(quiet < 600, "{} frames, and then nothing", frames.len());
    }
}

/// Every frame is that of the first pass, and as much behind the one before as within a pass.
#[track_caller]
fn hold(frames: &[(FrameMeta, Vec<u8>)], pass: usize, step_ns: u64) {
    assert!(frames[..pass].windows(2).any(|pair| pair[0].1 != pair[1].1) || pass == 1, "one picture says nothing");
    for (at, (meta, rgb)) in frames.iter().enumerate() {
        assert_eq!(meta.id, at as u64);
        assert!(*rgb == frames[at % pass].1, "frame {at} is another picture than frame {}", at % pass);
    }
    for (at, pair) in frames.windows(2).enumerate() {
        let step = pair[1].0.pts_ns.unwrap() - pair[0].0.pts_ns.unwrap();
        assert!(step.abs_diff(step_ns) <= 2_000_000, "{step} ns from frame {at} to the next");
    }
}

#[test]
fn a_file_goes_round_without_a_seam() {
    let folder = tempfile::tempdir().unwrap();
    let options = SourceOptions { max_frames: Some(120), ..SourceOptions::new(SIZE) };
    let mut source = looped(support::mp4(folder.path()).to_str().unwrap(), &options);
    assert_eq!((source.info().live, source.info().frames_estimate), (false, None));
    let (frames, error) = read(&mut source);
    assert!(error.is_none(), "{error:?}");
    assert_eq!((frames.len(), source.passes_ended(), source.losses()), (120, 2, 0));
    hold(&frames, 50, 40_000_000);
}

#[test]
fn a_limit_of_time_counts_all_passes() {
    let folder = tempfile::tempdir().unwrap();
    let options = SourceOptions { max_duration_ns: Some(4_500_000_000), ..SourceOptions::new(SIZE) };
    let (frames, _) = read(&mut looped(support::mp4(folder.path()).to_str().unwrap(), &options));
    assert_eq!(frames.len(), 113);
}

#[test]
fn at_its_own_speed_it_goes_on_too() {
    let folder = tempfile::tempdir().unwrap();
    let options = SourceOptions { max_frames: Some(75), live: Some(true), ..SourceOptions::new(SIZE) };
    let clock = MonotonicClock::start();
    let mut source = looped(support::webm(folder.path()).to_str().unwrap(), &options);
    assert!(source.info().live);
    let (frames, error) = read(&mut source);
    assert!(error.is_none(), "{error:?}");
    // Thirty frames take a second.
    assert!(clock.now() >= Duration::from_millis(2_200), "{:?}", clock.now());
    assert!(source.passes_ended() >= 2 && source.losses() == 0, "{} passes", source.passes_ended());
    let times: Vec<u64> = frames.iter().map(|(meta, _)| meta.pts_ns.unwrap()).collect();
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
    let widest = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    println!("{} ms at most between two of 30 a second", widest / 1_000_000);
}

#[test]
fn pictures_stand_still_or_go_round() {
    let folder = tempfile::tempdir().unwrap();
    let still = folder.path().join("still.png");
    support::run(&format!(
        "videotestsrc num-buffers=1 ! video/x-raw,width=80,height=60 ! pngenc ! filesink location={}",
        still.display()
    ));
    let options = SourceOptions { max_frames: Some(60), ..SourceOptions::new(SIZE) };
    let (frames, error) = read(&mut looped(still.to_str().unwrap(), &options));
    assert!(error.is_none() && frames.len() == 60, "{error:?}");
    hold(&frames, 1, 40_000_000);
    let live = SourceOptions { max_frames: Some(5), live: Some(true), ..SourceOptions::new(SIZE) };
    let (frames, error) = read(&mut looped(still.to_str().unwrap(), &live));
    assert!(error.is_none() && frames.len() == 5, "{error:?}");
    let short = SourceOptions { max_duration_ns: Some(1_000_000_000), ..SourceOptions::new(SIZE) };
    assert_eq!(read(&mut looped(still.to_str().unwrap(), &short)).0.len(), 25);

    let pictures = folder.path().join("pictures");
    std::fs::create_dir(&pictures).unwrap();
    support::run(&format!(
        "videotestsrc num-buffers=3 pattern=ball ! video/x-raw,width=80,height=60 ! pngenc ! multifilesink location={}/%d.png",
        pictures.display()
    ));
    let options = SourceOptions { max_frames: Some(10), ..SourceOptions::new(SIZE) };
    let mut source = looped(pictures.to_str().unwrap(), &options);
    let (frames, error) = read(&mut source);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(source.passes_ended(), 3);
    hold(&frames, 3, 40_000_000);
}

#[test]
fn moving_pictures_go_round_at_their_own_times() {
    let moving = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/moving.png");
    let whole = support::read(&moving, SIZE.width, SIZE.height);
    let pass = whole.pictures.len();
    let options = SourceOptions { max_frames: Some(3 * pass as u64), ..SourceOptions::new(SIZE) };
    let (frames, error) = read(&mut looped(moving.to_str().unwrap(), &options));
    assert!(error.is_none(), "{error:?}");
    let steps = |metas: &[FrameMeta]| -> Vec<u64> {
        metas.windows(2).map(|pair| pair[1].pts_ns.unwrap() - pair[0].pts_ns.unwrap()).collect()
    };
    let metas: Vec<FrameMeta> = frames.iter().map(|(meta, _)| *meta).collect();
    let mut once = steps(&whole.metas);
    once.push(whole.metas[pass - 1].duration_ns.unwrap());
    let wanted: Vec<u64> = once.iter().cycle().take(3 * pass - 1).copied().collect();
    assert_eq!(steps(&metas), wanted);
    assert!(frames.iter().enumerate().all(|(at, (_, rgb))| *rgb == whole.pictures[at % pass]));
}

#[test]
fn a_file_that_is_taken_away_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    let path = support::webm(folder.path());
    let mut source = looped(path.to_str().unwrap(), &SourceOptions::new(SIZE));
    std::fs::remove_file(&path).unwrap();
    // The first pass is read, and the second where it was opened by then.
    let (frames, error) = read(&mut source);
    assert!(matches!(error, Some(IoError::MissingInput { .. })), "{error:?}");
    assert!(frames.len() % 30 == 0 && !frames.is_empty(), "{}", frames.len());
    assert!(matches!(source.next(support::LONG), LiveNext::End));

    // Where it is watched, the last picture is shown until the file is back.
    let path = support::webm(folder.path());
    let (input, options) =
        (Input::parse(path.to_str().unwrap()).unwrap(), SourceOptions { live: Some(true), ..SourceOptions::new(SIZE) });
    let retry = Retry { first: Duration::from_millis(50), longest: Duration::from_millis(100) };
    let source = VideoSource::open(&input, &options).unwrap();
    let mut source = LiveSource::looped(source, input, &options, Some(retry));
    std::fs::remove_file(&path).unwrap();
    let (mut away, mut back, mut last_ns) = (false, 0, None);
    for _ in 0..600 {
        let pts_ns = match source.next(Duration::from_millis(100)) {
            LiveNext::Frame(frame) => {
                back += usize::from(away);
                frame.meta().pts_ns
            }
            LiveNext::Away(meta) => {
                if !away {
                    support::webm(folder.path());
                }
                away = true;
                meta.pts_ns
            }
            LiveNext::TimedOut => continue,
            other => panic!("{other:?}"),
        };
        assert!(last_ns < pts_ns, "{last_ns:?} and then {pts_ns:?}");
        last_ns = pts_ns;
        // Into the pass after the one that came back.
        if back > 35 {
            break;
        }
    }
    assert!(back > 35 && source.losses() == 1, "{back} frames after {} losses", source.losses());
}

#[test]
fn sound_goes_round_with_the_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let (clip, written) = (support::mp4(folder.path()), folder.path().join("written.mkv"));
    let options = SourceOptions { max_duration_ns: Some(7_000_000_000), ..SourceOptions::new(SIZE) };
    let mut source = looped(clip.to_str().unwrap(), &options);
    let options =
        OutputsOptions { size: SIZE, framerate: Some((25, 1)), live: false, audio: source.take_audio(), retry: None };
    assert!(options.audio.is_some());
    let mut outputs = Outputs::open(&[Output::parse(written.to_str().unwrap()).unwrap()], options).unwrap();
    // As networks with several frames on their way do: the next pass has begun when the last pictures of one are written.
    let mut held = std::collections::VecDeque::new();
    loop {
        match source.next(support::LONG) {
            LiveNext::Frame(frame) => held.push_back((frame.meta(), support::packed(&frame))),
            LiveNext::End => break,
            LiveNext::TimedOut => {}
            other => panic!("{other:?}"),
        }
        if held.len() > 8 {
            let (meta, rgb) = held.pop_front().unwrap();
            outputs.push(meta, &rgb).unwrap();
        }
    }
    for (meta, rgb) in held {
        outputs.push(meta, &rgb).unwrap();
    }
    outputs.finish().unwrap();
    drop(source);
    let packets = support::sound(&written);
    let once = support::sound(&clip);
    let times: Vec<u64> = packets.iter().map(|(time, _)| *time).collect();
    println!("{} packets where the clip has {}", packets.len(), once.len());
    // A packet is 21 ms long, and the clip's sound as long as its pictures to within one.
    for pair in times.windows(2) {
        let step = pair[1] - pair[0];
        assert!((1..=45_000_000).contains(&step), "{} and then {}", pair[0], pair[1]);
    }
    assert!(times[0] < 30_000_000 && times.last().unwrap().abs_diff(7_000_000_000) < 60_000_000, "{times:?}");
    // The sound of every pass is that of the first: nothing of its end is missing.
    for pass in 0..3 {
        let of_pass = |time: u64| (pass * 2_000_000_000..(pass + 1) * 2_000_000_000).contains(&(time + 5_000_000));
        let count = times.iter().filter(|time| of_pass(**time)).count();
        assert!((92..=95).contains(&count), "{count} packets in pass {pass}");
    }
}
