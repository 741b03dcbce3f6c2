//! Pipelines of outputs that others watch while they are made: network streams, HLS folders, virtual cameras.

use std::path::Path;

use livediffusion_pipeline::frame::Size;

use super::encode;
use crate::audio::AudioTrack;
use crate::error::IoError;
use crate::launch;
use crate::output::Protocol;
use crate::webrtc::{self, Codec};

/// Seconds between key frames: a viewer who joins waits this long at most, and an HLS segment begins at each.
pub(super) const KEY_FRAME_SECONDS: u64 = 2;

/// How long a muxer waits for sound or pictures that are late before it goes on without. Longer would hold back a stream
/// whose sound has stopped; shorter would put sound behind pictures that it belongs beside.
const MUXER_PATIENCE_NS: u64 = 500_000_000;

/// Segments in the playlist of a live stream: three more than players want, for those that are slow.
const SEGMENTS: u32 = 6;

/// Where a stream goes over WebRTC.
pub(crate) const PEER: &str = "webrtcbin name=peer";

/// What a stream is made of.
#[derive(Clone, Copy)]
pub(super) struct Made<'a> {
    pub(super) size: Size,
    pub(super) framerate: Option<(u32, u32)>,
    pub(super) audio: Option<&'a AudioTrack>,
    /// Whether pictures come in real time; if not, the stream's clock slows them down.
    pub(super) live: bool,
}

/// The pipeline that sends to `address`.
pub(super) fn stream(protocol: Protocol, address: &str, made: Made<'_>) -> Result<String, IoError> {
    let to = launch::quoted(address);
    let sync = !made.live;
    let (muxer, tail) = match protocol {
        Protocol::Rtmp => {
            let muxer = format!("flvmux name=muxer streamable=true latency={MUXER_PATIENCE_NS}");
            ("flvmux", format!("{muxer} ! rtmp2sink location={to} sync={sync} async=false"))
        }
        Protocol::Srt => {
            // 7 packets of 188 bytes are what fits into a datagram of the internet.
            let muxer = format!("mpegtsmux name=muxer alignment=7 latency={MUXER_PATIENCE_NS}");
            // Ours to retry: the element would do it behind our back, and hold its pipeline up meanwhile.
            let sink = format!("srtsink uri={to} auto-reconnect=false wait-for-connection=false");
            ("mpegtsmux", format!("{muxer} ! {sink} sync={sync} async=false"))
        }
        Protocol::Whip => return Ok(whip(made)),
        // TCP: one connection through any firewall, whose end is noticed.
        Protocol::Rtsp => {
            ("rtspclientsink", format!("rtspclientsink name=muxer location={to} protocols=tcp latency=0"))
        }
    };
    let sound = made.audio.map(|track| sound(track, muxer)).transpose()?;
    let sound = sound.map_or_else(String::new, |sound| format!(" {sound} ! muxer."));
    Ok(format!("{} ! muxer. {tail}{sound}", pictures(made)))
}

/// The pipeline that sends to whom its `webrtcbin` is told of.
fn whip(made: Made<'_>) -> String {
    // Nothing behind it keeps a file's pace.
    let pace = if made.live { "" } else { "! clocksync " };
    format!(
        "appsrc name=pictures ! queue max-size-buffers=2 max-size-bytes=0 max-size-time=0 {pace}! videoconvert ! {} ! {} ! {PEER}",
        webrtc::encoder(Codec::H264, live_kilobits(made.size, frames_a_second(made.framerate))),
        webrtc::payloader(Codec::H264, webrtc::PAYLOAD),
    )
}

/// The pipeline that keeps a folder of segments with the playlist `path`.
pub(super) fn hls(path: &Path, made: Made<'_>) -> Result<String, IoError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let segments = launch::quoted(&launch::unnumbered(folder).join("segment%05d.ts").to_string_lossy());
    let playlist = launch::quoted(&path.to_string_lossy());
    // A file's stream is kept whole, a live one's old segments go.
    let (length, files) = if made.live { (SEGMENTS, 2 * SEGMENTS) } else { (0, 0) };
    let tail = format!(
        "hlssink2 name=muxer location={segments} playlist-location={playlist} target-duration={KEY_FRAME_SECONDS} \
         playlist-length={length} max-files={files}"
    );
    let sound = made.audio.map(|track| sound(track, "mpegtsmux")).transpose()?;
    let sound = sound.map_or_else(String::new, |sound| format!(" {sound} ! muxer.audio"));
    Ok(format!("{} ! muxer.video {tail}{sound}", pictures(made)))
}

/// The pipeline that feeds a virtual camera.
pub(super) fn camera(device: &Path, live: bool) -> String {
    // The three formats that programs which read cameras know; the device may be set to one of them already.
    format!(
        "appsrc name=pictures ! queue max-size-buffers=2 ! videoconvert \
         ! video/x-raw,format=(string){{YUY2,NV12,I420}} ! v4l2sink device={} sync={}",
        launch::quoted(&device.to_string_lossy()),
        !live
    )
}

/// From pictures to H.264 that is sent as soon as it is made.
fn pictures(Made { size, framerate, .. }: Made<'_>) -> String {
    let fps = frames_a_second(framerate);
    let kilobits = live_kilobits(size, fps);
    format!(
        "appsrc name=pictures ! queue max-size-buffers=2 max-size-bytes=0 max-size-time=0 ! videoconvert \
         ! video/x-raw,format=I420 ! x264enc tune=zerolatency speed-preset=superfast bitrate={kilobits} \
         key-int-max={} ! h264parse config-interval=-1 ! {}",
        KEY_FRAME_SECONDS * fps,
        encode::BEFORE_MUXER
    )
}

fn frames_a_second(framerate: Option<(u32, u32)>) -> u64 {
    let (n, d) = framerate.filter(|(n, d)| *n > 0 && *d > 0).unwrap_or((30, 1));
    (u64::from(n) / u64::from(d)).clamp(1, 240)
}

/// Kilobits a second of a live stream: a tenth of a bit a pixel is what streaming services ask for.
pub(crate) fn live_kilobits(size: Size, fps: u64) -> u64 {
    (size.pixels() as u64 * fps / 10_000).clamp(400, 20_000)
}

/// The sound as it is where the muxer takes it, else as AAC, which all of them do.
fn sound(track: &AudioTrack, muxer: &str) -> Result<String, IoError> {
    // Uncompressed sound would take more room than the pictures.
    let raw = track.format().starts_with("audio/x-raw");
    let through = if !raw && encode::accepts(muxer, track)? {
        encode::parser(track).to_owned()
    } else {
        tracing::info!("{} becomes AAC", track.format());
        "decodebin ! audioconvert ! audioresample ! avenc_aac bitrate=128000 ! aacparse".to_owned()
    };
    Ok(format!("appsrc name=sound ! {through} ! {}", encode::BEFORE_MUXER))
}
