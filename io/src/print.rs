//! Inputs and outputs as commands for `gst-launch-1.0`, to try them alone or to take them elsewhere.

use gst::glib;
use livediffusion_pipeline::frame::Size;

use crate::error::IoError;
use crate::input::{Area, Fit, Input, TestSource};
use crate::output::{Output, Protocol, Still};
use crate::sink::SinkOptions;
use crate::{devices, launch, sink, source, webrtc};

/// The command that shows what `input` gives, in a window. Of a folder it shows the first picture.
pub fn source_command(input: &Input, size: Size, fit: Fit) -> Result<String, IoError> {
    crate::init()?;
    let head = match input {
        Input::File(path) => by_uri(&uri_of(path)?),
        Input::Images(folder) => {
            let pictures = source::list_images(folder)?;
            by_uri(&uri_of(pictures.first().unwrap_or(folder))?)
        }
        Input::Uri(uri) if webrtc::is_whep(uri) => {
            format!("{} ! decodebin", whip("whepsrc", "whep", uri))
        }
        Input::Uri(uri) => {
            let settings = source::LOW_DELAY.map(|(name, value)| format!(" source::{name}={value}")).concat();
            by_uri(uri) + if uri.to_ascii_lowercase().starts_with("rtsp") { &settings } else { "" }
        }
        Input::Test(TestSource { pattern, size, framerate: (n, d), frames, live }) => {
            let count = frames.map_or(String::new(), |frames| format!(" num-buffers={frames}"));
            let Size { width, height } = *size;
            format!(
                "videotestsrc pattern={pattern} is-live={live}{count} ! video/x-raw,width={width},height={height},framerate={n}/{d}"
            )
        }
        Input::Camera(name) => match devices::camera_path(name.as_deref()) {
            Some(path) => format!("v4l2src device={} ! decodebin", launch::quoted(&path)),
            None => "autovideosrc ! decodebin".into(),
        },
        Input::V4l2(path) => format!("v4l2src device={} ! decodebin", launch::quoted(&path.to_string_lossy())),
        Input::Screen(area) => {
            let part = area.map_or(String::new(), |Area { x, y, width, height }| {
                format!(" startx={x} starty={y} endx={} endy={}", x + width - 1, y + height - 1)
            });
            format!("ximagesrc use-damage=false{part}")
        }
        Input::Ndi(name) => format!("ndisrc ndi-name={} ! ndisrcdemux name=d d.video", launch::quoted(name)),
        Input::Fragment(text) => text.clone(),
    };
    let chain = source::describe_chain(size, fit);
    Ok(command(&format!("{head} ! {chain} ! videoconvert ! autovideosink sync=false")))
}

/// The command that sends a test picture of `size` to `output`, as the painted pictures are sent, without sound.
pub fn sink_command(output: &Output, size: Size, framerate: Option<(u32, u32)>, live: bool) -> Result<String, IoError> {
    crate::init()?;
    let options = SinkOptions { size, framerate, live, audio: None, overwrite: true };
    let text = sink::describe(output, None, &options, None)?;
    let (n, d) = framerate.unwrap_or((30, 1));
    let pictures = format!(
        "videotestsrc is-live={live} ! video/x-raw,format=RGB,width={},height={},framerate={n}/{d}",
        size.width, size.height
    );
    let mut text = text.replacen("appsrc name=pictures", &pictures, 1);
    if let Output::Network(Protocol::Whip, address) = output {
        // `webrtcbin` calls nobody by itself; this element of gst-plugins-rs does.
        text = text.replace(sink::PEER, &whip("whipsink", "whip", address));
    }
    let files = match output {
        Output::Pngs(folder) => Some((launch::unnumbered(folder).join("frame_%06d.png"), String::new())),
        // Of one name alone: each picture in place of the one before.
        Output::Picture(path, Still::Png) => {
            Some((launch::unnumbered(path), "videoconvert ! pngenc snapshot=false ! ".into()))
        }
        Output::Picture(path, Still::Jpeg) => {
            let encoder = format!("videoconvert ! video/x-raw,format=I420 ! jpegenc quality={} ! ", sink::JPEG_QUALITY);
            Some((launch::unnumbered(path), encoder))
        }
        _ => None,
    };
    if let Some((files, encoder)) = files {
        let location = launch::quoted(&files.to_string_lossy());
        text = text.replace(sink::FILES, &format!("{encoder}multifilesink location={location}"));
    }
    Ok(command(&text))
}

/// An element that calls a server of WHIP or WHEP.
fn whip(element: &str, kind: &str, address: &str) -> String {
    let (http, token) = webrtc::http_of(address).unwrap_or_default();
    let token = token.map_or(String::new(), |token| format!(" auth-token={}", launch::quoted(&token)));
    format!("{element} {kind}-endpoint={}{token}", launch::quoted(&http))
}

fn by_uri(uri: &str) -> String {
    format!("uridecodebin uri={}", launch::quoted(uri))
}

fn uri_of(path: &std::path::Path) -> Result<glib::GString, IoError> {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    glib::filename_to_uri(&whole, None).map_err(|e| launch::failed(&path.display().to_string(), &e))
}

/// The pipeline as a line for a shell: words that it would not leave alone stand in quotes.
fn command(pipeline: &str) -> String {
    let mut line = String::from("gst-launch-1.0 -e");
    let (mut word, mut quoted) = (String::new(), false);
    for c in pipeline.chars().chain([' ']) {
        quoted ^= c == '"';
        if c != ' ' || quoted {
            word.push(c);
        } else if !word.is_empty() {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_=/.,:!%@+".contains(c);
            line.push(' ');
            if word.chars().all(plain) {
                line.push_str(&word);
            } else {
                line.push('\'');
                line.push_str(&word.replace('\'', r"'\''"));
                line.push('\'');
            }
            word.clear();
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_leaves_the_words_alone() {
        let line = command(r#"a ! b location="/x y/it's" ! video/x-raw,format=(string){A,B} ! c."#);
        assert_eq!(
            line,
            r#"gst-launch-1.0 -e a ! b 'location="/x y/it'\''s"' ! 'video/x-raw,format=(string){A,B}' ! c."#
        );
    }
}
