//! What the user may write as an input, told apart without opening anything.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use livediffusion_pipeline::frame::Size;

use crate::error::IoError;
use crate::launch;
use crate::secret::without_secrets;

/// Schemes whose sources deliver in real time but say so only once connected.
const LIVE_SCHEMES: &[&str] =
    &["rtsp", "rtsps", "rtspt", "rtmp", "rtmps", "rtmp2", "srt", "udp", "rtp", "rist", "whep", "wheps"];

/// How a picture is brought to the network's size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Fit {
    /// Fill the size and cut off what sticks out, evenly on both sides.
    #[default]
    Cover,
    /// Show the whole picture, with black borders where it does not reach.
    Contain,
    /// Fill the size and let the proportions go.
    Stretch,
}

impl FromStr for Fit {
    type Err = IoError;

    fn from_str(text: &str) -> Result<Self, IoError> {
        match text {
            "cover" => Ok(Self::Cover),
            "contain" => Ok(Self::Contain),
            "stretch" => Ok(Self::Stretch),
            _ => Err(cannot_parse(text, "a fit is one of cover, contain, stretch")),
        }
    }
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cover => "cover",
            Self::Contain => "contain",
            Self::Stretch => "stretch",
        })
    }
}

/// A generated picture: `test://PATTERN?size=640x360&fps=30&frames=100&live`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestSource {
    /// One of `videotestsrc`'s patterns, such as `smpte`, `ball` or `snow`.
    pub pattern: String,
    /// Size before fitting.
    pub size: Size,
    /// Frames per second, as a fraction.
    pub framerate: (u32, u32),
    /// Length in frames; endless if `None`.
    pub frames: Option<u64>,
    /// Whether it comes in real time, as a camera does.
    pub live: bool,
}

impl Default for TestSource {
    fn default() -> Self {
        Self { pattern: "smpte".into(), size: Size::new(640, 360), framerate: (30, 1), frames: None, live: false }
    }
}

/// A part of the screen, in pixels from its upper left corner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// Distance from the left.
    pub x: u32,
    /// Distance from the top.
    pub y: u32,
    /// At least 1.
    pub width: u32,
    /// At least 1.
    pub height: u32,
}

impl Area {
    fn parse(text: &str) -> Option<Self> {
        let sides: Vec<u32> = text.split(',').map(|side| side.trim().parse().ok()).collect::<Option<_>>()?;
        let [x, y, width, height] = sides[..] else { return None };
        let small = |from: u32, length: u32| (1..=16_384).contains(&length) && from <= 65_536;
        (small(x, width) && small(y, height)).then_some(Self { x, y, width, height })
    }
}

/// Where pictures come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A file of any format that GStreamer reads.
    File(PathBuf),
    /// A folder of pictures (png, jpg, webp, bmp, tif, gif, tga, pnm), in the order in which people number files, at 25 a second.
    Images(PathBuf),
    /// A URI of any scheme that GStreamer reads.
    Uri(String),
    /// A generated picture.
    Test(TestSource),
    /// The first camera found, or the first whose name contains the text.
    Camera(Option<String>),
    /// A camera by its device file.
    V4l2(PathBuf),
    /// The X11 screen, or an area of it.
    Screen(Option<Area>),
    /// A sender of NDI by its name.
    Ndi(String),
    /// A `gst-launch` fragment whose free end gives video.
    Fragment(String),
}

impl Input {
    /// Tells what `text` names. Files must exist; devices and networks are not touched.
    pub fn parse(text: &str) -> Result<Self, IoError> {
        let path = Path::new(text);
        if text.is_empty() {
            return Err(cannot_parse(text, "the input is empty"));
        }
        if let Some(device) = text.strip_prefix("v4l2://") {
            return Ok(Self::V4l2(PathBuf::from(device)));
        }
        if text.starts_with("/dev/video") {
            return Ok(Self::V4l2(path.to_path_buf()));
        }
        if path.is_dir() {
            return Ok(Self::Images(path.to_path_buf()));
        }
        if path.exists() {
            return Ok(Self::File(path.to_path_buf()));
        }
        if let Some(rest) = text.strip_prefix("test://") {
            return TestSource::parse(text, rest).map(Self::Test);
        }
        if let Some(name) = text.strip_prefix("camera://").or((text == "camera").then_some("")) {
            return Ok(Self::Camera(Some(name.to_owned()).filter(|name| !name.is_empty())));
        }
        if let Some(area) = text.strip_prefix("screen://").or((text == "screen").then_some("")) {
            let parsed = Area::parse(area);
            if !area.is_empty() && parsed.is_none() {
                return Err(cannot_parse(text, "an area of the screen is X,Y,WIDTH,HEIGHT in pixels"));
            }
            return Ok(Self::Screen(parsed));
        }
        if let Some(name) = text.strip_prefix("ndi://").filter(|name| !name.is_empty()) {
            return Ok(Self::Ndi(name.to_owned()));
        }
        if launch::is_fragment(text)? {
            return Ok(Self::Fragment(launch::without_appsink(text).to_owned()));
        }
        if has_scheme(text) {
            return Ok(Self::Uri(text.to_owned()));
        }
        if text.contains('/') || path.extension().is_some() {
            return Err(IoError::MissingInput { path: path.to_path_buf() });
        }
        Err(cannot_parse(text, "neither a file, nor a URI, nor a GStreamer element"))
    }
}

impl Input {
    /// Whether it is a network stream that comes in real time.
    pub(crate) fn is_live_stream(&self) -> bool {
        let scheme = |uri: &String| uri.split(':').next().unwrap_or_default().to_ascii_lowercase();
        matches!(self, Self::Uri(uri) if LIVE_SCHEMES.contains(&scheme(uri).as_str()))
    }

    /// Whether pictures come in real time, as far as the text tells.
    pub fn is_live(&self) -> bool {
        self.ends_when_lost() || matches!(self, Self::Test(TestSource { live: true, .. }))
    }

    /// Whether its end means that it was lost, rather than that it is over: cameras and servers do not end.
    pub(crate) fn ends_when_lost(&self) -> bool {
        let device = matches!(self, Self::Camera(_) | Self::V4l2(_) | Self::Screen(_) | Self::Ndi(_));
        device || self.is_live_stream()
    }
}

impl FromStr for Input {
    type Err = IoError;

    fn from_str(text: &str) -> Result<Self, IoError> {
        Self::parse(text)
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) | Self::Images(path) | Self::V4l2(path) => {
                write!(f, "{}", path.display())
            }
            Self::Uri(text) | Self::Fragment(text) => f.write_str(&without_secrets(text)),
            Self::Test(test) => write!(f, "test://{}", test.pattern),
            Self::Camera(name) => write!(f, "camera://{}", name.as_deref().unwrap_or_default()),
            Self::Screen(None) => f.write_str("screen://"),
            Self::Screen(Some(Area { x, y, width, height })) => write!(f, "screen://{x},{y},{width},{height}"),
            Self::Ndi(name) => write!(f, "ndi://{name}"),
        }
    }
}

impl TestSource {
    fn parse(text: &str, rest: &str) -> Result<Self, IoError> {
        let (pattern, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut test = Self::default();
        if !pattern.is_empty() {
            pattern.trim_end_matches('/').clone_into(&mut test.pattern);
        }
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, "true"));
            let read = match key {
                "live" => value.parse().ok().map(|live| test.live = live),
                "frames" => value.parse().ok().map(|frames| test.frames = Some(frames)),
                "fps" => fraction(value).map(|framerate| test.framerate = framerate),
                "size" => size(value).map(|size| test.size = size),
                _ => None,
            };
            if read.is_none() {
                let why = format!("`{pair}` is not one of size=WIDTHxHEIGHT, fps=N or N/D, frames=N, live");
                return Err(cannot_parse(text, &why));
            }
        }
        Ok(test)
    }
}

fn size(text: &str) -> Option<Size> {
    let (width, height) = text.split_once('x')?;
    let side = |text: &str| text.parse::<usize>().ok().filter(|side| (1..=16_384).contains(side));
    Some(Size::new(side(width)?, side(height)?))
}

fn fraction(text: &str) -> Option<(u32, u32)> {
    let (n, d) = text.split_once('/').unwrap_or((text, "1"));
    let positive = |text: &str| text.parse::<u32>().ok().filter(|n| (1..=1_000_000).contains(n));
    Some((positive(n)?, positive(d)?))
}

fn has_scheme(text: &str) -> bool {
    let scheme = |c: char| c.is_ascii_alphanumeric() || "+.-".contains(c);
    text.split_once(':').is_some_and(|(head, rest)| {
        head.len() > 1
            && head.starts_with(|c: char| c.is_ascii_alphabetic())
            && head.chars().all(scheme)
            && rest.starts_with('/')
    })
}

fn cannot_parse(text: &str, why: &str) -> IoError {
    IoError::CannotParse { text: text.to_owned(), why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_sources_read_their_options() {
        let parsed = Input::parse("test://ball?live&frames=7&fps=30000/1001&size=320x240").unwrap();
        let expected = TestSource {
            pattern: "ball".into(),
            size: Size::new(320, 240),
            framerate: (30_000, 1001),
            frames: Some(7),
            live: true,
        };
        assert_eq!(parsed, Input::Test(expected));
        assert_eq!(Input::parse("test://").unwrap(), Input::Test(TestSource::default()));
        assert!(Input::parse("test://ball?speed=3").unwrap_err().is_usage());
    }

    #[test]
    fn inputs_are_told_apart() {
        assert_eq!(Input::parse("/dev/video3").unwrap(), Input::V4l2("/dev/video3".into()));
        assert_eq!(Input::parse("v4l2:///dev/video3").unwrap(), Input::V4l2("/dev/video3".into()));
        assert_eq!(Input::parse("rtsp://a/b").unwrap(), Input::Uri("rtsp://a/b".into()));
        assert_eq!(Input::parse("camera://").unwrap(), Input::Camera(None));
        assert_eq!(Input::parse("camera://HD Pro").unwrap(), Input::Camera(Some("HD Pro".into())));
        assert_eq!(Input::parse("ndi://STUDIO (cam 1)").unwrap(), Input::Ndi("STUDIO (cam 1)".into()));
        assert_eq!(Input::parse("screen://").unwrap(), Input::Screen(None));
        let area = Area { x: 10, y: 20, width: 640, height: 480 };
        assert_eq!(Input::parse("screen://10,20,640,480").unwrap(), Input::Screen(Some(area)));
        for wrong in ["screen://1,2,3", "screen://1,2,0,4", "screen://a,b,c,d", "screen://1,2,3,4,5"] {
            assert!(Input::parse(wrong).unwrap_err().is_usage(), "{wrong}");
        }
        for text in ["camera://HD", "screen://10,20,640,480", "ndi://a", "rtsp://a/b"] {
            assert_eq!(Input::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Input::parse("videotestsrc").unwrap(), Input::Fragment("videotestsrc".into()));
        assert_eq!(
            Input::parse("videotestsrc ! videoconvert ! appsink name=x").unwrap(),
            Input::Fragment("videotestsrc ! videoconvert".into())
        );
        assert!(matches!(Input::parse("no/such/file.mp4"), Err(IoError::MissingInput { .. })));
        assert!(matches!(Input::parse("gibberish"), Err(IoError::CannotParse { .. })));
    }

    #[test]
    fn fits_print_as_they_parse() {
        for fit in [Fit::Cover, Fit::Contain, Fit::Stretch] {
            assert_eq!(fit.to_string().parse::<Fit>().unwrap(), fit);
        }
    }
}
