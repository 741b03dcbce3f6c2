//! The GStreamer elements that this crate uses, and which Debian package each comes in.

/// One element and why it is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ElementNeed {
    /// Name of the element's factory, as `gst-inspect-1.0` takes it.
    pub element: &'static str,
    /// Debian package that brings it.
    pub debian_package: &'static str,
    /// What does not work without it.
    pub what_for: &'static str,
}

const BASE: &str = "gstreamer1.0-plugins-base";
const GOOD: &str = "gstreamer1.0-plugins-good";
const BAD: &str = "gstreamer1.0-plugins-bad";
const UGLY: &str = "gstreamer1.0-plugins-ugly";
const LIBAV: &str = "gstreamer1.0-libav";
const CORE: &str = "libgstreamer1.0-0";
const RTSP: &str = "gstreamer1.0-rtsp";
const NICE: &str = "gstreamer1.0-nice";
const X: &str = "gstreamer1.0-x";

const fn need(element: &'static str, debian_package: &'static str, what_for: &'static str) -> ElementNeed {
    ElementNeed { element, debian_package, what_for }
}

const NEEDS: &[ElementNeed] = &[
    need("filesrc", CORE, "reading files"),
    need("filesink", CORE, "writing files"),
    need("queue", CORE, "every pipeline"),
    need("appsrc", BASE, "every output"),
    need("appsink", BASE, "every input"),
    need("uridecodebin", BASE, "reading files and streams"),
    need("decodebin", BASE, "reading pictures and cameras"),
    need("videoconvert", BASE, "every pipeline"),
    need("videoscale", BASE, "every input"),
    need("videotestsrc", BASE, "the test:// input"),
    need("audioconvert", BASE, "sound that must be re-encoded"),
    need("audioresample", BASE, "sound that must be re-encoded"),
    need("opusenc", BASE, "sound in webm that must be re-encoded"),
    need("ximagesrc", GOOD, "the screen:// input"),
    need("videoflip", GOOD, "phone videos that carry a rotation"),
    need("aspectratiocrop", GOOD, "the `cover` fit"),
    need("v4l2src", GOOD, "cameras"),
    need("qtdemux", GOOD, "reading mp4 and mov"),
    need("matroskademux", GOOD, "reading mkv and webm"),
    need("mp4mux", GOOD, "writing mp4"),
    need("qtmux", GOOD, "writing mov"),
    need("matroskamux", GOOD, "writing mkv"),
    need("webmmux", GOOD, "writing webm"),
    need("vp8enc", GOOD, "writing webm"),
    need("vp8dec", GOOD, "reading webm"),
    need("pngenc", GOOD, "writing a folder of pictures"),
    need("jpegdec", GOOD, "many cameras"),
    need("aacparse", GOOD, "copying AAC sound"),
    need("mpegaudioparse", GOOD, "copying MP3 sound"),
    need("autovideosink", GOOD, "the window output"),
    need("x264enc", UGLY, "writing mp4, mov and mkv"),
    need("h264parse", BAD, "reading H.264"),
    need("avdec_h264", LIBAV, "reading H.264"),
    need("avenc_aac", LIBAV, "sound in mp4 that must be re-encoded"),
    need("rtspsrc", GOOD, "rtsp:// inputs"),
    need("souphttpsrc", GOOD, "http:// inputs"),
    need("hlsdemux", BAD, "HLS inputs"),
    need("srtsrc", BAD, "srt:// inputs"),
    need("rtmp2src", BAD, "rtmp:// inputs"),
    need("tsdemux", BAD, "reading MPEG-TS"),
    need("flvdemux", GOOD, "reading FLV"),
    need("flvmux", GOOD, "rtmp:// outputs"),
    need("rtmp2sink", BAD, "rtmp:// outputs"),
    need("mpegtsmux", BAD, "srt:// and HLS outputs"),
    need("srtsink", BAD, "srt:// outputs"),
    need("hlssink2", BAD, "HLS outputs"),
    need("rtspclientsink", RTSP, "rtsp:// outputs"),
    need("v4l2sink", GOOD, "virtual cameras"),
    need("webrtcbin", BAD, "WHIP and WHEP"),
    need("dtlssrtpenc", BAD, "WHIP and WHEP"),
    need("srtpenc", BAD, "WHIP and WHEP"),
    need("nicesrc", NICE, "WHIP and WHEP"),
    need("nicesink", NICE, "WHIP and WHEP"),
    need("rtpbin", GOOD, "WHIP and WHEP"),
    need("rtph264pay", GOOD, "WHIP and WHEP"),
    need("rtpvp8pay", GOOD, "WHEP to peers without H.264"),
    need("vp9dec", GOOD, "WHIP from peers that send VP9"),
    need("clocksync", CORE, "files to whip:// outputs"),
    need("ximagesink", X, "the window output under X11"),
];

/// Elements that people put into fragments, beyond [`required_elements`].
const OTHERS: &[(&str, &str)] = &[
    ("udpsrc", GOOD),
    ("udpsink", GOOD),
    ("vp9enc", GOOD),
    ("pulsesrc", "gstreamer1.0-pulseaudio"),
    ("pipewiresrc", "gstreamer1.0-pipewire"),
    ("shmsink", BAD),
    ("shmsrc", BAD),
    ("openh264enc", BAD),
    ("x265enc", BAD),
    ("glimagesink", "gstreamer1.0-gl"),
    ("gtksink", "gstreamer1.0-gtk3"),
];

/// Every element that some input or output of this crate is built from.
pub const fn required_elements() -> &'static [ElementNeed] {
    NEEDS
}

/// The Debian package that brings `element`, where it is known.
pub fn package_of(element: &str) -> Option<&'static str> {
    let others = OTHERS.iter().find(|(name, _)| *name == element).map(|(_, package)| *package);
    NEEDS.iter().find(|need| need.element == element).map(|need| need.debian_package).or(others)
}

/// Whether GStreamer's registry has `element`.
///
/// Asked of the registry and not of `gst-inspect-1.0 --exists`, which compares the plugin's version with GStreamer's
/// and so denies plugins that have versions of their own.
pub fn element_available(element: &str) -> bool {
    crate::init().is_ok() && gst::ElementFactory::find(element).is_some()
}

/// GStreamer's version, such as `GStreamer 1.22.0`, or why it did not start.
pub fn gstreamer_version() -> String {
    match crate::init() {
        Ok(()) => gst::version_string().to_string(),
        Err(error) => error.to_string(),
    }
}
