//! `gst-launch` fragments: recognising them, trimming OpenCV's habits off, and building them with errors that name
//! the element at fault.

use std::path::{Path, PathBuf};

use gst::prelude::*;

use crate::error::IoError;

/// Whether `text` is meant as a fragment: it links elements, or its first word names one.
pub(crate) fn is_fragment(text: &str) -> Result<bool, IoError> {
    crate::init()?;
    let first = text.split_whitespace().next().unwrap_or_default();
    Ok(text.contains(" ! ") || (!first.contains('/') && gst::ElementFactory::find(first).is_some()))
}

/// `text` without a trailing `! appsink …`, which OpenCV's users write by habit.
pub(crate) fn without_appsink(text: &str) -> &str {
    match text.rsplit_once('!') {
        Some((head, tail)) if tail.split_whitespace().next() == Some("appsink") => head.trim(),
        _ => text.trim(),
    }
}

/// `text` without a leading `appsrc … !`.
pub(crate) fn without_appsrc(text: &str) -> &str {
    match text.split_once('!') {
        Some((head, tail)) if head.split_whitespace().next() == Some("appsrc") => tail.trim(),
        _ => text.trim(),
    }
}

/// Builds the user's `fragment` for an output: a bin with one pad, its free front end.
pub(crate) fn user_sink(fragment: &str) -> Result<gst::Bin, IoError> {
    user_bin(fragment, fragment, true)
}

/// Builds the user's `fragment` for an input: a bin with one pad, `src`, that gives video.
///
/// Only that pad is made: the parser's own free ends would include elements whose link waits for a demuxer or a decoder
/// to show its pads, and would keep it from ever being made.
pub(crate) fn user_source(fragment: &str) -> Result<gst::Bin, IoError> {
    let bad = |detail: &str| IoError::BadFragment { fragment: fragment.to_owned(), detail: detail.to_owned() };
    // To the parser caps stand between elements, also the caps that a fragment ends in, as in `v4l2src ! image/jpeg`.
    let last = fragment.rsplit('!').next().unwrap_or_default().split_whitespace().next().unwrap_or_default();
    let ends_in_caps = last.split(['=', '"']).next().unwrap_or_default().contains('/');
    let between = if ends_in_caps { "! identity " } else { "" };
    // The caps choose the video of what has sound too, once a decoder shows both.
    let bin = user_bin(fragment, &format!("{fragment} {between}! video/x-raw ! identity name=end"), false)?;
    let end: gst::Element = named(&bin, "end")?;
    let pad = end.static_pad("src").ok_or_else(|| bad("it has no free end that gives pictures"))?;
    let ghost = gst::GhostPad::builder_with_target(&pad).map(|builder| builder.name("src").build());
    let added = ghost.map_err(|e| failed(fragment, &e)).map(|ghost| bin.add_pad(&ghost))?;
    added.map_err(|e| failed(fragment, &e))?;
    Ok(bin)
}

fn user_bin(fragment: &str, whole: &str, ghosts: bool) -> Result<gst::Bin, IoError> {
    let bad = |detail: &str| IoError::BadFragment { fragment: fragment.to_owned(), detail: detail.to_owned() };
    let element = parse(whole, ghosts).map_err(|error| error.unwrap_or_else(|e| bad(e.message())))?;
    element.downcast::<gst::Bin>().map_err(|_| bad("it is not a chain of elements"))
}

/// The parsed description; where an element is missing, an error that names it.
fn parse(text: &str, ghosts: bool) -> Result<gst::Element, Result<IoError, gst::glib::Error>> {
    tracing::debug!(pipeline = text, "building");
    let mut context = gst::ParseContext::new();
    gst::parse::bin_from_description_full(text, ghosts, Some(&mut context), gst::ParseFlags::FATAL_ERRORS).map_err(
        |error| {
            // The list also has elements that exist but were refused a property.
            let missing = context.missing_elements().into_iter().find(|name| gst::ElementFactory::find(name).is_none());
            missing.map(|element| IoError::MissingElement { element }).ok_or(error)
        },
    )
}

/// Builds a pipeline of our own.
pub(crate) fn pipeline(text: &str) -> Result<gst::Pipeline, IoError> {
    // A single chain would otherwise come back as its only element.
    bin(text, false).and_then(|bin| {
        let pipeline = gst::Pipeline::new();
        pipeline.add(&bin).map_err(|e| failed(text, &e))?;
        Ok(pipeline)
    })
}

/// Builds a bin of our own; with `ghosts`, its free ends become its pads.
pub(crate) fn bin(text: &str, ghosts: bool) -> Result<gst::Bin, IoError> {
    let element = parse(text, ghosts).map_err(|error| error.unwrap_or_else(|e| failed(text, &e)))?;
    element.downcast().map_err(|_| failed(text, &"not a bin"))
}

/// An element by its factory's name.
pub(crate) fn element(factory: &str) -> Result<gst::Element, IoError> {
    gst::ElementFactory::make(factory).build().map_err(|_| IoError::MissingElement { element: factory.to_owned() })
}

/// The element that was given `name` inside `bin`, at any depth.
pub(crate) fn named<T: IsA<gst::Element>>(bin: &impl IsA<gst::Bin>, name: &str) -> Result<T, IoError> {
    let found = bin.by_name(name).and_then(|element| element.downcast::<T>().ok());
    found.ok_or_else(|| failed(name, &"no such element"))
}

/// A failure that only a fault in this crate or a broken installation can cause.
pub(crate) fn failed(what: &str, detail: &dyn std::fmt::Display) -> IoError {
    IoError::Failed { what: what.to_owned(), detail: detail.to_string() }
}

/// A path for elements that put numbers into theirs as `printf` does: into none of its own characters.
pub(crate) fn unnumbered(path: &Path) -> PathBuf {
    path.to_string_lossy().replace('%', "%%").into()
}

/// `text` in quotes, as a property's value in a pipeline's description.
pub(crate) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
