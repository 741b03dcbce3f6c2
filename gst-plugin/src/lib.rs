//! The filter as an element of GStreamer.
//!
//! ```sh
//! gst-launch-1.0 v4l2src ! videoconvert ! livediffusion prompt="oil painting" ! queue ! videoconvert ! autovideosink
//! ```
//!
//! `livediffusion` takes raw RGB video of any size and gives as many frames of the same size, each with the time stamps, flags and
//! metadata of the frame that it was painted over. Its properties are the parameters and options of `livediffusion run`, by the same
//! names; what can change while a stream runs there can change while it plays here.

mod deadline;
mod in_flight;
mod logs;
mod options;
mod pace;
mod painting;
mod properties;
mod video_filter;

use std::path::PathBuf;
use std::sync::OnceLock;

use gst::glib;
use gst::prelude::*;

glib::wrapper! {
    /// The element `livediffusion`.
    pub struct LiveDiffusion(ObjectSubclass<video_filter::VideoFilter>)
        @extends gst_video::VideoFilter, gst_base::BaseTransform, gst::Element, gst::Object;
}

/// The file that the plugin was loaded from: packs lie above it.
static FILE: OnceLock<PathBuf> = OnceLock::new();

fn plugin_init(plugin: &gst::Plugin) -> Result<(), glib::BoolError> {
    if let Some(file) = plugin.filename() {
        // A second registration is of the same file.
        let _ = FILE.set(file);
    }
    gst::Element::register(Some(plugin), "livediffusion", gst::Rank::NONE, LiveDiffusion::static_type())
}

/// What GStreamer finds in the library, and how programs that link it in register the plugin.
mod description {
    #![allow(missing_docs, reason = "made by GStreamer's macro")]

    use super::plugin_init;

    gst::plugin_define!(
        livediffusion,
        env!("CARGO_PKG_DESCRIPTION"),
        plugin_init,
        env!("CARGO_PKG_VERSION"),
        // One of the words that GStreamer knows; the other choice, Apache-2.0, is none of them.
        "MIT/X11",
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_NAME"),
        "https://crates.io/crates/livediffusion"
    );
}

pub use self::description::plugin_desc::plugin_register_static;
