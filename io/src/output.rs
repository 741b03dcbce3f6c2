//! What the user may write as an output, told apart without opening anything.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::IoError;
use crate::launch;

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

    fn of(extension: &str) -> Option<Self> {
        let known = |(name, _): &&(&str, Self)| extension.eq_ignore_ascii_case(name);
        Self::KNOWN.iter().find(known).map(|(_, container)| *container)
    }
}

/// Where pictures go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// A video file; it carries its name only once it is whole.
    File(PathBuf, Container),
    /// A folder of pictures `frame_000000.png`, `frame_000001.png`, …
    Pngs(PathBuf),
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
        let path = Path::new(text.strip_prefix("file://").unwrap_or(text));
        if text.ends_with('/') || path.is_dir() {
            return Ok(Self::Pngs(path.to_path_buf()));
        }
        if launch::is_fragment(text)? {
            return Ok(Self::Fragment(launch::without_appsrc(text).to_owned()));
        }
        if let Some((scheme, _)) = text.split_once("://").filter(|(scheme, _)| *scheme != "file") {
            let why =
                format!("no output of the scheme `{scheme}://`; a pipeline such as `x264enc ! …` reaches any sink");
            return Err(IoError::CannotParse { text: text.to_owned(), why });
        }
        let Some(extension) = path.extension().map(|extension| extension.to_string_lossy().into_owned()) else {
            return Ok(Self::Pngs(path.to_path_buf()));
        };
        if let Some(container) = Container::of(&extension) {
            return Ok(Self::File(path.to_path_buf(), container));
        }
        let known: Vec<_> = Container::KNOWN.iter().map(|(name, _)| *name).collect();
        Err(IoError::UnknownExtension { path: path.to_path_buf(), extension, known: known.join(", ") })
    }

    /// The file or folder that is written, where there is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::File(path, _) | Self::Pngs(path) => Some(path),
            Self::Window | Self::Fragment(_) => None,
        }
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
            Self::File(path, _) | Self::Pngs(path) => write!(f, "{}", path.display()),
            Self::Window => f.write_str("window"),
            Self::Fragment(text) => f.write_str(text),
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
        assert_eq!(Output::parse("out.d/").unwrap(), Output::Pngs("out.d/".into()));
        assert_eq!(Output::parse("out").unwrap(), Output::Pngs("out".into()));
        assert_eq!(Output::parse("window").unwrap(), Output::Window);
        assert_eq!(Output::parse("fakesink").unwrap(), Output::Fragment("fakesink".into()));
        assert_eq!(
            Output::parse("appsrc name=x ! videoconvert ! fakesink").unwrap(),
            Output::Fragment("videoconvert ! fakesink".into())
        );
        let error = Output::parse("a.avi").unwrap_err();
        assert!(error.is_usage() && error.to_string().contains("mp4, m4v, mov, mkv, webm"), "{error}");
    }
}
