//! `gst-launch` fragments: recognising them, trimming OpenCV's habits off, and building them with errors that name
//! the element at fault.

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

/// Builds the user's `fragment` as a bin whose free ends are its pads. `before` and `after` are put around it.
pub(crate) fn user_bin(before: &str, fragment: &str, after: &str) -> Result<gst::Bin, IoError> {
    let mut context = gst::ParseContext::new();
    let text = format!("{before}{fragment}{after}");
    let built = gst::parse::bin_from_description_full(&text, true, Some(&mut context), gst::ParseFlags::FATAL_ERRORS);
    if let Some(element) = context.missing_elements().into_iter().next() {
        return Err(IoError::MissingElement { element });
    }
    let element =
        built.map_err(|e| IoError::BadFragment { fragment: fragment.to_owned(), detail: e.message().to_owned() })?;
    element.downcast::<gst::Bin>().map_err(|_| IoError::BadFragment {
        fragment: fragment.to_owned(),
        detail: "it is not a chain of elements".into(),
    })
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
    tracing::debug!(pipeline = text, "building");
    let mut context = gst::ParseContext::new();
    let built = gst::parse::bin_from_description_full(text, ghosts, Some(&mut context), gst::ParseFlags::FATAL_ERRORS);
    if let Some(element) = context.missing_elements().into_iter().next() {
        return Err(IoError::MissingElement { element });
    }
    built.map_err(|e| failed(text, &e))?.downcast().map_err(|_| failed(text, &"not a bin"))
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

/// `text` in quotes, as a property's value in a pipeline's description.
pub(crate) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
