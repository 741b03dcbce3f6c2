//! Which encoder, parser and muxer an output file needs.

use livediffusion_pipeline::frame::Size;

use crate::audio::AudioTrack;
use crate::error::IoError;
use crate::launch;
use crate::output::Container;

/// Room between the encoders and the muxer. The muxer writes what is earliest and waits for whichever stream is
/// behind; in a badly interleaved input that may be the sound by minutes, and the pictures must be able to wait here.
pub(super) const BEFORE_MUXER: &str = "queue max-size-bytes=67108864 max-size-buffers=0 max-size-time=0";

/// Frames between key frames at most: a player can jump to any two seconds of a usual video.
const KEY_FRAMES: u32 = 60;

/// The pipeline that writes `path`: `appsrc`s named `pictures` and, with sound, `sound`.
pub(super) fn describe(
    container: Container,
    path: &str,
    (size, framerate): (Size, Option<(u32, u32)>),
    audio: Option<&AudioTrack>,
) -> Result<String, IoError> {
    let muxer = muxer(container);
    let video = match container {
        // `superfast`: the networks want the cores; `veryfast` costs three times the time for a quarter less file.
        // Without B-frames the first picture needs no edit list to start where it should. CRF 20 is visually close to
        // lossless; each 6 less doubles the size. I420 because RGB would become 4:4:4, which few players show.
        Container::Mp4 | Container::Mov | Container::Mkv => format!(
            "video/x-raw,format=I420 ! x264enc speed-preset=superfast pass=qual quantizer=20 bframes=0 \
             key-int-max={KEY_FRAMES} ! video/x-h264,stream-format=avc,alignment=au"
        ),
        Container::Webm => format!(
            "video/x-raw,format=I420 ! vp8enc deadline=1 cpu-used=4 end-usage=cq cq-level=10 min-quantizer=4 \
             max-quantizer=48 threads=4 keyframe-max-dist={KEY_FRAMES} target-bitrate={}",
            vp8_bitrate(size, framerate)
        ),
    };
    let pictures = format!(
        "appsrc name=pictures ! queue max-size-buffers=2 max-size-bytes=0 max-size-time=0 ! videoconvert \
         ! {video} ! {BEFORE_MUXER} ! muxer. {muxer} name=muxer ! filesink location={}",
        launch::quoted(path)
    );
    let Some(track) = audio else { return Ok(pictures) };
    let through = if accepts(muxer, track)? {
        parser(track).to_owned()
    } else {
        tracing::info!("{path}: the container does not take {}: the sound is re-encoded", track.format());
        let encoder = match container {
            Container::Mp4 | Container::Mov => "avenc_aac bitrate=192000 ! aacparse",
            Container::Mkv | Container::Webm => "opusenc bitrate=160000",
        };
        format!("decodebin ! audioconvert ! audioresample ! {encoder}")
    };
    // By name: what says nothing of its caps beforehand is given the muxer's first place, which is one for video.
    Ok(format!("{pictures} appsrc name=sound ! {through} ! {BEFORE_MUXER} ! muxer.audio_0"))
}

/// Ticks a second of an mp4's video track that hold `framerate` exactly; 90 kHz where frames come irregularly.
pub(super) fn timescale(framerate: Option<(u32, u32)>) -> u32 {
    const USUAL: u32 = 90_000;
    match framerate {
        Some((n, d)) if n > 0 && (u64::from(USUAL) * u64::from(d)) % u64::from(n) != 0 => {
            // A multiple of the numerator, large enough for frames that are not quite where they should be.
            n.saturating_mul(USUAL.div_ceil(n).max(1))
        }
        _ => USUAL,
    }
}

const fn muxer(container: Container) -> &'static str {
    match container {
        Container::Mp4 => "mp4mux",
        Container::Mov => "qtmux",
        Container::Mkv => "matroskamux",
        Container::Webm => "webmmux",
    }
}

/// A fifth of a bit a pixel is plenty for VP8; the quality level keeps it below where less will do.
fn vp8_bitrate(size: Size, framerate: Option<(u32, u32)>) -> u64 {
    let (n, d) = framerate.filter(|(_, d)| *d > 0).unwrap_or((30, 1));
    (size.pixels() as u64 * u64::from(n) / u64::from(d) / 5).clamp(500_000, 100_000_000)
}

/// Whether `muxer` takes the sound as it is.
pub(super) fn accepts(muxer: &str, track: &AudioTrack) -> Result<bool, IoError> {
    let missing = || IoError::MissingElement { element: muxer.to_owned() };
    let factory = gst::ElementFactory::find(muxer).ok_or_else(missing)?;
    let media = track.media();
    // GStreamer's (1.22) writes the number of samples to leave out at the start in the wrong byte order, so that players leave out more.
    if ["mp4mux", "qtmux"].contains(&muxer) && media.structure(0).is_some_and(|s| s.name() == "audio/x-opus") {
        return Ok(false);
    }
    let takes = |template: gst::StaticPadTemplate| {
        template.direction() == gst::PadDirection::Sink
            && ["audio", "sink"].iter().any(|name| template.name_template().starts_with(name))
            && template.caps().can_intersect(&media)
    };
    Ok(factory.static_pad_templates().into_iter().any(takes))
}

/// What brings packets into the form that muxers take, without changing their contents.
pub(super) fn parser(track: &AudioTrack) -> &'static str {
    let media = track.media();
    let kind = media.structure(0);
    let version = kind.and_then(|s| s.get::<i32>("mpegversion").ok());
    match (kind.map(|s| s.name().as_str()), version) {
        (Some("audio/mpeg"), Some(1)) => "mpegaudioparse",
        (Some("audio/mpeg"), _) => "aacparse",
        (Some("audio/x-opus"), _) => "opusparse",
        (Some("audio/x-vorbis"), _) => "vorbisparse",
        (Some("audio/x-flac"), _) => "flacparse",
        (Some("audio/x-ac3" | "audio/x-eac3"), _) => "ac3parse",
        _ => "identity",
    }
}

#[cfg(test)]
mod tests {
    use super::timescale;

    #[test]
    fn timescales_hold_every_usual_frame_exactly() {
        for (n, d) in
            [(24, 1), (25, 1), (30, 1), (50, 1), (60, 1), (24_000, 1001), (30_000, 1001), (60_000, 1001), (12, 1)]
        {
            assert_eq!(u64::from(timescale(Some((n, d)))) * u64::from(d) % u64::from(n), 0, "{n}/{d}");
        }
        assert_eq!(timescale(None), 90_000);
    }
}
