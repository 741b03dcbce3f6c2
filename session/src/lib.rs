//! From the name of a model and options to a stream that repaints frames.
//!
//! [`OpenPack`] finds and reads a model, [`parameters`] lays what the pack, its preset and the user say over each other, [`Backend`]
//! finds the library and the provider that is the fastest here, [`Session`] loads the networks and makes streams of them. What is on
//! the other side, a command line or an element of GStreamer, is not known here.

pub mod calibration;
mod error;
pub mod hub;
mod lanes;
pub mod locate;
mod options;
mod pack;
mod parameters;
mod session;

pub use self::error::{Outcome, SessionError};
pub use self::options::ModelOptions;
pub use self::pack::{OpenPack, extent, facts};
pub use self::parameters::{Layer, parameters, preset_hint, preset_values, text_of};
pub use self::session::{Backend, Session, Streams, load_unet, painter_of};
