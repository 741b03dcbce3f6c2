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

/// Times of a live stream are those of the wall: they may be behind it on a busy machine, and never ahead.
#[track_caller]
fn keeps_time(source: &mut LiveSource) -> Vec<(FrameMeta, Vec<u8>)> {
    let clock = MonotonicClock::start();
    let (frames, error) = read(source);
    let wall = clock.now();
    assert!(error.is_none(), "{error:?}");
    let times: Vec<u64> = frames.iter().map(|(meta, _)| meta.pts_ns.unwrap()).collect();
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
    let stream = Duration::from_nanos(times.last().unwrap() - times[0]);
    let (steps, widest) = (times.windows(2).map(|pair| pair[1] - pair[0]), |steps: u64| steps / 1_000_000);
    println!("{stream:?} of the stream in {wall:?}, {:?} ms at most from one to the next", steps.max().map(widest));
    assert!(stream <= wall + Duration::from_millis(30), "{stream:?} of the stream in {wall:?}");
    frames
}

#[test]
fn at_its_own_speed_it_goes_on_too() {
    let folder = tempfile::tempdir().unwrap();
    let options = SourceOptions { max_frames: Some(75), live: Some(true), ..SourceOptions::new(SIZE) };
    let mut source = looped(support::webm(folder.path()).to_str().unwrap(), &options);
    assert!(source.info().live);
    keeps_time(&mut source);
    assert!(source.passes_ended() >= 2 && source.losses() == 0, "{} passes", source.passes_ended());
    // What is wrong at a seam adds up where there are many.
    let short = SourceOptions { max_frames: Some(60), ..options };
    keeps_time(&mut looped("test://ball?frames=3", &short));
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
    let mut source = looped(pictures.to_str().unwrap(), &SourceOptions { live: Some(true), ..options });
    assert!(source.info().live);
    keeps_time(&mut source);
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

/// Writes what a source gives, with its sound, `delay` frames later: as many as networks have on their way.
fn write(source: &mut LiveSource, to: &Path, delay: usize) {
    let options = OutputsOptions {
        size: SIZE,
        framerate: Some((25, 1)),
        live: source.info().live,
        audio: source.take_audio(),
        retry: None,
    };
    assert!(options.audio.is_some());
    let mut outputs = Outputs::open(&[Output::parse(to.to_str().unwrap()).unwrap()], options).unwrap();
    let mut held = std::collections::VecDeque::new();
    loop {
        match source.next(Duration::from_millis(100)) {
            LiveNext::Frame(frame) => held.push_back((frame.meta(), support::packed(&frame))),
            LiveNext::End => break,
            LiveNext::TimedOut => {}
            other => panic!("{other:?}"),
        }
        if held.len() > delay {
            let (meta, rgb) = held.pop_front().unwrap();
            outputs.push(meta, &rgb).unwrap();
        }
    }
    for (meta, rgb) in held {
        outputs.push(meta, &rgb).unwrap();
    }
    source.finish();
    outputs.finish().unwrap();
}

#[test]
fn sound_goes_round_with_the_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let (clip, written) = (support::mp4(folder.path()), folder.path().join("written.mkv"));
    // In files the next pass has begun when the last pictures of one are written; live it begins when the sound is waited for.
    for (live, delay, seconds) in [(None, 8, 7), (Some(true), 0, 5)] {
        let options =
            SourceOptions { max_duration_ns: Some(seconds * 1_000_000_000), live, ..SourceOptions::new(SIZE) };
        write(&mut looped(clip.to_str().unwrap(), &options), &written, delay);
        let times: Vec<u64> = support::sound(&written).iter().map(|(time, _)| *time).collect();
        println!(
            "live {live:?}: {} packets in {seconds} s where the clip has {}",
            times.len(),
            support::sound(&clip).len()
        );
        // A packet is 21 ms long, and the clip's sound as long as its pictures to within one. Where a pass begins late, there is a gap.
        let widest = if live.is_some() { u64::MAX } else { 45_000_000 };
        for pair in times.windows(2) {
            assert!(pair[0] < pair[1] && pair[1] - pair[0] <= widest, "{} and then {}", pair[0], pair[1]);
        }
        assert!(
            times[0] < 30_000_000 && times.last().unwrap().abs_diff(seconds * 1_000_000_000) < 80_000_000,
            "{times:?}"
        );
        // The sound of every pass is that of the first: nothing of its end is missing.
        let whole = 94 * seconds / 2;
        assert!((whole - 4..=whole + 4).contains(&(times.len() as u64)), "{} packets, not {whole}", times.len());
    }
}

#[test]
fn the_sound_of_a_file_waits_for_its_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let (clip, written) = (folder.path().join("quiet.mp4"), folder.path().join("written.mkv"));
    // So little of pictures that all of the file is read at once.
    support::run(&format!(
        "videotestsrc num-buffers=750 pattern=black ! video/x-raw,format=I420,width=64,height=64,framerate=25/1 \
         ! x264enc ! mp4mux name=m ! filesink location={} \
         audiotestsrc num-buffers=1406 ! audio/x-raw,rate=48000,channels=2 ! avenc_aac ! aacparse ! m.",
        clip.display()
    ));
    let options = SourceOptions { max_duration_ns: Some(2_000_000_000), live: Some(true), ..SourceOptions::new(SIZE) };
    write(&mut looped(clip.to_str().unwrap(), &options), &written, 0);
    let packets = support::sound(&written).len();
    assert!((88..=98).contains(&packets), "{packets} packets in two seconds");
}

#[test]
fn a_picture_with_a_song_keeps_it() {
    let folder = tempfile::tempdir().unwrap();
    let (clip, written) = (folder.path().join("song.mkv"), folder.path().join("written.mkv"));
    support::run(&format!(
        "videotestsrc num-buffers=1 ! video/x-raw,format=I420,width=64,height=64,framerate=25/1 ! x264enc ! matroskamux name=m \
         ! filesink location={} audiotestsrc num-buffers=94 ! audio/x-raw,rate=48000,channels=2 ! avenc_aac ! aacparse ! m.",
        clip.display()
    ));
    let options = SourceOptions { max_duration_ns: Some(3_000_000_000), ..SourceOptions::new(SIZE) };
    write(&mut looped(clip.to_str().unwrap(), &options), &written, 0);
    let packets = support::sound(&written).len();
    assert!((90..=96).contains(&packets), "{packets} packets where the song has 94");
    assert_eq!(support::read(&written, SIZE.width, SIZE.height).pictures.len(), 75);
}

#[test]
fn a_file_at_its_own_speed_ends_or_fails_as_it_is() {
    let live = SourceOptions { live: Some(true), ..SourceOptions::new(SIZE) };
    // A picture that is shown for longer than an input may be silent.
    let options = SourceOptions { patience: Duration::from_millis(200), ..live.clone() };
    let mut source = support::open("test://ball?frames=3&fps=1", &options).unwrap();
    let (read, error) = support::drain(&mut source);
    assert!(error.is_none() && read.pictures.len() == 3, "{} pictures, {error:?}", read.pictures.len());
    assert!(source.is_paced() && source.has_ended());
    // Without pictures it is told at once, and why.
    let folder = tempfile::tempdir().unwrap();
    let sound = folder.path().join("sound.mp4");
    support::run(&format!(
        "audiotestsrc num-buffers=20 ! avenc_aac ! aacparse ! mp4mux ! filesink location={}",
        sound.display()
    ));
    let error = support::open(sound.to_str().unwrap(), &live).err().unwrap();
    assert!(matches!(error, IoError::NoVideo { .. }), "{error:?}");
    let error = support::open("fakesrc num-buffers=0 ! video/x-raw,format=RGB,width=8,height=8", &live).err().unwrap();
    assert!(!matches!(error, IoError::Stalled { .. }), "{error:?}");
}

/// `matroskamux` of that many pictures and seconds of sound, the pictures so much later.
fn mkv(folder: &Path, pictures: u32, seconds: u32, later_ns: u64) -> String {
    let clip = folder.join(format!("{pictures}-{seconds}-{later_ns}.mkv")).display().to_string();
    support::run(&format!(
        "videotestsrc num-buffers={pictures} pattern=ball timestamp-offset={later_ns} \
         ! video/x-raw,format=I420,width=64,height=64,framerate=25/1 ! x264enc ! matroskamux name=m ! filesink location={clip} \
         audiotestsrc num-buffers={} ! audio/x-raw,rate=48000,channels=2 ! avenc_aac ! aacparse ! m.",
        seconds * 48_000 / 1024
    ));
    clip
}

#[test]
fn pictures_do_not_wait_for_sound_that_goes_on_behind_them() {
    let folder = tempfile::tempdir().unwrap();
    let live = SourceOptions { live: Some(true), ..SourceOptions::new(SIZE) };
    for pictures in [1, 20] {
        let options = SourceOptions { max_frames: Some(u64::from(pictures)), ..live.clone() };
        let clock = MonotonicClock::start();
        let mut source = support::open(&mkv(folder.path(), pictures, 30, 0), &options).unwrap();
        let (read, error) = support::drain(&mut source);
        assert!(error.is_none() && read.pictures.len() + source.dropped() as usize == pictures as usize, "{error:?}");
        // They take less than a second.
        assert!(clock.now() < Duration::from_secs(20), "{:?}", clock.now());
    }
}

#[test]
fn sound_from_before_the_pictures_is_not_heard_again() {
    let folder = tempfile::tempdir().unwrap();
    let written = folder.path().join("written.mkv");
    let options = SourceOptions { max_duration_ns: Some(4_000_000_000), ..SourceOptions::new(SIZE) };
    write(&mut looped(&mkv(folder.path(), 25, 2, 1_000_000_000), &options), &written, 4);
    let times: Vec<u64> = support::sound(&written).iter().map(|(time, _)| *time).collect();
    assert!(times.len() > 100 && times.is_sorted_by(|a, b| a < b), "{times:?}");
}

#[test]
fn pictures_that_are_slow_to_read_are_shown_late() {
    let folder = tempfile::tempdir().unwrap();
    support::run(&format!(
        "videotestsrc num-buffers=6 pattern=ball ! video/x-raw,width=5000,height=4000 ! jpegenc ! multifilesink location={}/%d.jpg",
        folder.path().display()
    ));
    let live = SourceOptions { live: Some(true), ..SourceOptions::new(SIZE) };
    let mut source = support::open(folder.path().to_str().unwrap(), &live).unwrap();
    let (read, error) = support::drain(&mut source);
    assert!(error.is_none(), "{error:?}");
    println!("{} shown, {} left out", read.pictures.len(), source.dropped());
    assert_eq!(read.pictures.len() + source.dropped() as usize, 6);
    // Each takes longer to read than to show, so that no newer one waits.
    assert!(read.pictures.len() >= 4, "{} of 6", read.pictures.len());
}
