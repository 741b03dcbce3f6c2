//! What the user may write as an output, told apart without opening anything.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::IoError;
use crate::launch;
use crate::secret::without_secrets;

/// Extension of HLS playlists.
const PLAYLIST: &str = "m3u8";

/// A file format that holds video and sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// MPEG-4: `.mp4`, `.m4v`.
    Mp4,
    /// QuickTime: `.mov`.
    Mov,
    /// Matroska: `.mkv`.
    Mkv,
    /// `WebM`: `.webm`.
    Webm,
}

impl Container {
    const KNOWN: &'static [(&'static str, Self)] =
        &[("mp4", Self::Mp4), ("m4v", Self::Mp4), ("mov", Self::Mov), ("mkv", Self::Mkv), ("webm", Self::Webm)];
}

/// A file format that holds one picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Still {
    /// Every level as it is: `.png`.
    Png,
    /// Smaller, and a little off: `.jpg`, `.jpeg`.
    Jpeg,
}

impl Still {
    const KNOWN: &'static [(&'static str, Self)] = &[("png", Self::Png), ("jpg", Self::Jpeg), ("jpeg", Self::Jpeg)];
}

/// What an extension stands for among those that are known.
fn of_extension<T: Copy>(known: &[(&str, T)], extension: &str) -> Option<T> {
    known.iter().find(|(name, _)| extension.eq_ignore_ascii_case(name)).map(|(_, format)| *format)
}

/// How a stream is sent over a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// H.264 and AAC in FLV, to a server: `rtmp://`, `rtmps://`.
    Rtmp,
    /// H.264 in MPEG-TS, to a listener or, without a host or with `mode=listener`, to whoever calls: `srt://`.
    Srt,
    /// H.264 over RTP, to a server that records: `rtsp://`, `rtsps://`.
    Rtsp,
    /// H.264 over WebRTC, to a server that speaks WHIP: `whip://host:port/path`, `whips://…` over HTTPS; a bearer token goes
    /// before the host, `whip://TOKEN@host`.
    Whip,
}

impl Protocol {
    fn of(scheme: &str) -> Option<Self> {
        match scheme {
            "rtmp" | "rtmps" => Some(Self::Rtmp),
            "srt" => Some(Self::Srt),
            "rtsp" | "rtsps" | "rtspt" => Some(Self::Rtsp),
            "whip" | "whips" => Some(Self::Whip),
            _ => None,
        }
    }
}

/// Where pictures go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// A video file; it carries its name only once it is whole.
    File(PathBuf, Container),
    /// A network stream by its address.
    Network(Protocol, String),
    /// A playlist `.m3u8` with its segments beside it, for any web server to hand out.
    Hls(PathBuf),
    /// A virtual camera by its device file.
    V4l2(PathBuf),
    /// A folder of pictures `frame_000000.png`, `frame_000001.png`, …
    Pngs(PathBuf),
    /// One picture, the last that comes.
    Picture(PathBuf, Still),
    /// A window on the screen.
    Window,
    /// A `gst-launch` fragment that takes raw video.
    Fragment(String),
}

impl Output {
    /// Tells what `text` names; nothing is created.
    pub fn parse(text: &str) -> Result<Self, IoError> {
        if text.is_empty() {
            return Err(IoError::CannotParse { text: String::new(), why: "the output is empty".into() });
        }
        if matches!(text, "window" | "window://") {
            return Ok(Self::Window);
        }
        let device = text.strip_prefix("v4l2://").or(text.starts_with("/dev/video").then_some(text));
        if let Some(device) = device {
            return Ok(Self::V4l2(PathBuf::from(device)));
        }
        if let Some(folder) = text.strip_prefix("hls://").filter(|folder| !folder.is_empty()) {
            let path = Path::new(folder);
            let is_playlist = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(PLAYLIST));
            return Ok(Self::Hls(if is_playlist { path.to_path_buf() } else { path.join("index.m3u8") }));
        }
        let path = Path::new(text.strip_prefix("file://").unwrap_or(text));
        let scheme = text.split_once("://").filter(|(scheme, _)| *scheme != "file");
        if (text.ends_with('/') && scheme.is_none()) || path.is_dir() {
            return Ok(Self::Pngs(path.to_path_buf()));
        }
        if launch::is_fragment(text)? {
            return Ok(Self::Fragment(launch::without_appsrc(text).to_owned()));
        }
        if let Some((scheme, rest)) = scheme {
            if let Some(protocol) = Protocol::of(&scheme.to_ascii_lowercase()).filter(|_| !rest.is_empty()) {
                return Ok(Self::Network(protocol, text.to_owned()));
            }
            let why =
                format!("no output of the scheme `{scheme}://`; a pipeline such as `x264enc ! …` reaches any sink");
            return Err(IoError::CannotParse { text: text.to_owned(), why });
        }
        let Some(extension) = path.extension().map(|extension| extension.to_string_lossy().into_owned()) else {
            return Ok(Self::Pngs(path.to_path_buf()));
        };
        if extension.eq_ignore_ascii_case(PLAYLIST) {
            return Ok(Self::Hls(path.to_path_buf()));
        }
        if let Some(container) = of_extension(Container::KNOWN, &extension) {
            return Ok(Self::File(path.to_path_buf(), container));
        }
        if let Some(still) = of_extension(Still::KNOWN, &extension) {
            return Ok(Self::Picture(path.to_path_buf(), still));
        }
        let pictures = Still::KNOWN.iter().map(|(name, _)| *name);
        let known: Vec<_> = Container::KNOWN.iter().map(|(name, _)| *name).chain([PLAYLIST]).chain(pictures).collect();
        Err(IoError::UnknownExtension { path: path.to_path_buf(), extension, known: known.join(", ") })
    }

    /// The file or folder that is written, where there is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path, _) | Self::Picture(path, _) | Self::Pngs(path) | Self::Hls(path) => Some(path),
            Self::Network(..) | Self::V4l2(_) | Self::Window | Self::Fragment(_) => None,
        }
    }

    /// Whether somebody sees the pictures as they come, who would rather miss some than see them late.
    pub const fn is_watched(&self) -> bool {
        matches!(self, Self::Network(..) | Self::V4l2(_) | Self::Window)
    }

    /// Whether it is kept for later: then no picture may be missing.
    pub const fn is_kept(&self) -> bool {
        matches!(self, Self::File(..) | Self::Pngs(_) | Self::Picture(..))
    }

    /// Whether it may be lost and come back: then it is opened again, while other outputs go on.
    pub(crate) const fn may_return(&self) -> bool {
        matches!(self, Self::Network(..))
    }
}

impl FromStr for Output {
    type Err = IoError;

    fn from_str(text: &str) -> Result<Self, IoError> {
        Self::parse(text)
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, _) | Self::Picture(path, _) | Self::Pngs(path) | Self::Hls(path) | Self::V4l2(path) => {
                write!(f, "{}", path.display())
            }
            Self::Window => f.write_str("window"),
            Self::Network(_, text) | Self::Fragment(text) => f.write_str(&without_secrets(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_told_apart() {
        assert_eq!(Output::parse("a.MP4").unwrap(), Output::File("a.MP4".into(), Container::Mp4));
        assert_eq!(Output::parse("x/a.webm").unwrap(), Output::File("x/a.webm".into(), Container::Webm));
        assert_eq!(Output::parse("x/a.PNG").unwrap(), Output::Picture("x/a.PNG".into(), Still::Png));
        assert_eq!(Output::parse("a.jpeg").unwrap(), Output::Picture("a.jpeg".into(), Still::Jpeg));
        assert_eq!(Output::parse("out.d/").unwrap(), Output::Pngs("out.d/".into()));
        assert_eq!(Output::parse("out").unwrap(), Output::Pngs("out".into()));
        assert_eq!(Output::parse("window").unwrap(), Output::Window);
        assert_eq!(Output::parse("fakesink").unwrap(), Output::Fragment("fakesink".into()));
        assert_eq!(
            Output::parse("appsrc name=x ! videoconvert ! fakesink").unwrap(),
            Output::Fragment("videoconvert ! fakesink".into())
        );
        assert_eq!(Output::parse("v4l2:///dev/video10").unwrap(), Output::V4l2("/dev/video10".into()));
        assert_eq!(Output::parse("/dev/video10").unwrap(), Output::V4l2("/dev/video10".into()));
        assert_eq!(Output::parse("hls://live").unwrap(), Output::Hls("live/index.m3u8".into()));
        assert_eq!(Output::parse("live/a.m3u8").unwrap(), Output::Hls("live/a.m3u8".into()));
        for (address, protocol) in [
            ("rtmp://host/app/key", Protocol::Rtmp),
            ("srt://:7000?mode=listener", Protocol::Srt),
            ("RTSP://host:8554/live", Protocol::Rtsp),
            ("whip://host:7860/whip", Protocol::Whip),
            ("whips://key@host/live", Protocol::Whip),
        ] {
            assert_eq!(Output::parse(address).unwrap(), Output::Network(protocol, address.to_owned()));
        }
        assert!(Output::parse("rtmp://").is_err() && Output::parse("gopher://host/x").is_err());
        let error = Output::parse("a.avi").unwrap_err();
        assert!(
            error.is_usage() && error.to_string().contains("mp4, m4v, mov, mkv, webm, m3u8, png, jpg, jpeg"),
            "{error}"
        );
    }
}
