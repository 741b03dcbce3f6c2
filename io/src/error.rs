//! What can go wrong with an input or an output, said in one line, with the next command to try.

use std::path::PathBuf;

use livediffusion_pipeline::frame::Size;

use crate::elements::package_of;

/// Whose move it is after an error; the command line turns it into an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request cannot be met as asked (exit code 2).
    Usage,
    /// Something failed while running (exit code 1).
    Runtime,
    /// Something is not installed or not connected; `doctor` explains it (exit code 3).
    Missing,
}

/// An input or output that could not be opened, read or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum IoError {
    /// GStreamer itself did not start.
    #[error("GStreamer did not start: {detail}")]
    Init {
        /// GStreamer's own words.
        detail: String,
    },
    /// The text names neither a file, a URI, a device nor an element.
    #[error("cannot tell what `{text}` is: {why}")]
    CannotParse {
        /// What the user wrote.
        text: String,
        /// What was expected.
        why: String,
    },
    /// The file or folder to read is not there.
    #[error("{}: no such file or folder", path.display())]
    MissingInput {
        /// As the user wrote it.
        path: PathBuf,
    },
    /// The file to read has no bytes, or the folder no pictures.
    #[error("{what} is empty: {why}")]
    EmptyInput {
        /// File, folder or URI.
        what: String,
        /// What was looked for.
        why: String,
    },
    /// The input has streams, but none with pictures.
    #[error("{what} has no video stream")]
    NoVideo {
        /// File or URI.
        what: String,
    },
    /// The bytes are not a video that can be read.
    #[error("{what} cannot be read as video: {detail}")]
    Corrupt {
        /// File or URI.
        what: String,
        /// GStreamer's own words.
        detail: String,
    },
    /// A GStreamer element is not installed.
    #[error("GStreamer has no element `{element}`")]
    MissingElement {
        /// Name of the element's factory.
        element: String,
    },
    /// A decoder or demuxer for this input is not installed.
    #[error("{what} needs a GStreamer plugin that is not installed: {needed}")]
    MissingPlugin {
        /// File, URI or fragment.
        what: String,
        /// Description of the plugin, such as "H.265 decoder".
        needed: String,
    },
    /// A `gst-launch` fragment that GStreamer does not accept.
    #[error("the pipeline `{fragment}` cannot be built: {detail}")]
    BadFragment {
        /// What the user wrote.
        fragment: String,
        /// GStreamer's own words.
        detail: String,
    },
    /// A session description (SDP) that a peer sent.
    #[error("the session description cannot be used: {detail}")]
    BadDescription {
        /// What is wrong with it.
        detail: String,
    },
    /// No camera, no display, or a device that does not open.
    #[error("{what} is not available: {detail}")]
    Unavailable {
        /// The device.
        what: String,
        /// Why.
        detail: String,
    },
    /// The virtual camera to write to is not there.
    #[error("{}: no such virtual camera", path.display())]
    NoVirtualCamera {
        /// The device file.
        path: PathBuf,
    },
    /// A network address that does not answer, or has no such stream.
    #[error("{uri} cannot be reached: {detail}")]
    Unreachable {
        /// The address.
        uri: String,
        /// GStreamer's own words.
        detail: String,
    },
    /// There is no display to show a window on or to read the screen of.
    #[error("{what} needs a display: {detail}")]
    NoDisplay {
        /// The window or the screen.
        what: String,
        /// What was looked for.
        detail: String,
    },
    /// Nothing arrived for too long.
    #[error("{what} gave no data for {seconds} s")]
    Stalled {
        /// Input or output.
        what: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// An output file whose extension names no known container.
    #[error("{}: unknown output extension `{extension}` (known: {known})", path.display())]
    UnknownExtension {
        /// The output as written.
        path: PathBuf,
        /// Its extension, without the dot.
        extension: String,
        /// The known ones, comma separated.
        known: String,
    },
    /// The output exists and was not to be overwritten.
    #[error("{} exists", path.display())]
    OutputExists {
        /// The output.
        path: PathBuf,
    },
    /// The output's folder does not exist or cannot be written.
    #[error("{} cannot be written: {detail}", path.display())]
    Unwritable {
        /// The output.
        path: PathBuf,
        /// The system's own words.
        detail: String,
    },
    /// No space is left where the output is written.
    #[error("{}: no space left on the disk", path.display())]
    DiskFull {
        /// The output.
        path: PathBuf,
    },
    /// Writing failed half way.
    #[error("{}: writing failed: {detail}", path.display())]
    Write {
        /// The output.
        path: PathBuf,
        /// The system's own words.
        detail: String,
    },
    /// A picture of another size than the sink was opened for.
    #[error("a picture of {got} bytes was given to a sink for {expected} RGB pictures")]
    WrongSize {
        /// The sink's size.
        expected: Size,
        /// Bytes given.
        got: usize,
    },
    /// The user closed the window.
    #[error("the window was closed")]
    WindowClosed,
    /// Any other failure of a pipeline.
    #[error("{what}: {detail}")]
    Failed {
        /// Input or output.
        what: String,
        /// GStreamer's own words.
        detail: String,
    },
}

impl IoError {
    /// Whose move it is.
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::CannotParse { .. }
            | Self::MissingInput { .. }
            | Self::EmptyInput { .. }
            | Self::NoVideo { .. }
            | Self::BadFragment { .. }
            | Self::BadDescription { .. }
            | Self::UnknownExtension { .. }
            | Self::OutputExists { .. }
            | Self::Unwritable { .. } => ErrorKind::Usage,
            Self::Init { .. }
            | Self::MissingElement { .. }
            | Self::MissingPlugin { .. }
            | Self::NoDisplay { .. }
            | Self::NoVirtualCamera { .. }
            | Self::Unavailable { .. } => ErrorKind::Missing,
            Self::Corrupt { .. }
            | Self::Stalled { .. }
            | Self::Unreachable { .. }
            | Self::DiskFull { .. }
            | Self::Write { .. }
            | Self::WrongSize { .. }
            | Self::WindowClosed
            | Self::Failed { .. } => ErrorKind::Runtime,
        }
    }

    /// Whether the request itself was at fault (exit code 2).
    pub fn is_usage(&self) -> bool {
        self.kind() == ErrorKind::Usage
    }

    /// The next thing to try, as one line without the word "hint".
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Init { .. } => "run `livediffusion doctor`".into(),
            Self::CannotParse { why, .. } if why.contains("output") => {
                "give a file such as out.mp4, a folder (ending in `/`) for PNG pictures, `window`, `rtmp://`, `srt://`, `rtsp://`, `whip://` or a \
                 pipeline such as `x264enc ! fakesink`"
                    .into()
            }
            Self::CannotParse { .. } => {
                "give a file, a folder of pictures, a URI, `camera://`, `screen://`, `test://` or a pipeline such as `videotestsrc ! videoconvert`".into()
            }
            Self::MissingInput { path } => match path.parent().filter(|p| p.is_dir()) {
                Some(folder) => format!("ls {}", folder.display()),
                None => "check the path; `livediffusion devices` lists cameras and screens".into(),
            },
            Self::NoVideo { .. } => {
                "give a file that has pictures; of an MP4, they are passed over where they last less than a fifth of the sound".into()
            }
            Self::Corrupt { .. } => "play it with another program; if that works, run again with -v for GStreamer's own words".into(),
            Self::MissingElement { element } => match package_of(element) {
                Some(package) => format!("apt install {package}"),
                None if element == "ndisrc" => "build it: cargo install cargo-c, then cargo cinstall -p gst-plugin-ndi in gst-plugins-rs; it needs the NDI library".into(),
                None => format!("check the spelling with `gst-inspect-1.0 {element}`"),
            },
            Self::MissingPlugin { .. } => {
                "apt install gstreamer1.0-libav gstreamer1.0-plugins-good gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly".into()
            }
            Self::BadFragment { fragment, .. } => format!("try it alone: gst-launch-1.0 {fragment}"),
            Self::Unavailable { .. } => "`livediffusion devices` lists cameras and screens".into(),
            Self::NoVirtualCamera { path } => {
                let number: String = path.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
                format!(
                    "apt install v4l2loopback-dkms && modprobe v4l2loopback exclusive_caps=1 card_label=livediffusion video_nr={}",
                    if number.is_empty() { "10" } else { &number }
                )
            }
            Self::Unreachable { .. } => "check the address, and that something answers there".into(),
            Self::NoDisplay { .. } => "run it in a graphical session, or set DISPLAY".into(),
            Self::Stalled { .. } => "check that the device or the network address still answers".into(),
            Self::UnknownExtension { .. } => "give one of these extensions, or a folder (ending in `/`) for PNG pictures".into(),
            Self::OutputExists { path } => format!("give another name, or remove it: rm -r {}", path.display()),
            Self::Unwritable { path, .. } => match path.parent().filter(|p| !p.as_os_str().is_empty() && !p.exists()) {
                Some(folder) => format!("mkdir -p {}", folder.display()),
                None => "choose a folder that you may write to".into(),
            },
            Self::DiskFull { path } => format!("df -h {}", path.parent().unwrap_or(path).display()),
            Self::EmptyInput { .. } => "give one that has pictures; a recording may have been cut off before it began".into(),
            Self::BadDescription { .. } => {
                "send an SDP offer with its addresses in it, of pictures in H.264, VP8 or, to be received here, VP9".into()
            }
            Self::Write { .. }
            | Self::WrongSize { .. }
            | Self::WindowClosed
            | Self::Failed { .. } => return None,
        })
    }
}
