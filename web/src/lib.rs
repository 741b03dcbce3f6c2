//! The page on which visitors see themselves repainted, and the HTTP interface of a running server.
//!
//! Each visitor has a session: a stream batch, a seed and parameters of its own, on weights that all share. Frames come and
//! pictures go over one WebSocket ([`message`]); an engine runs on a thread of its own, which never waits for the network
//! and of whose frames the newest wins. Whoever speaks WHIP or WHEP publishes and watches over WebRTC, without the page. Nothing
//! here knows ONNX Runtime: [`Studio`] brings what is needed.

mod api;
mod guard;
mod line;
mod mailbox;
pub mod message;
mod metrics;
mod outbox;
mod page;
mod painting;
mod picture;
mod refusal;
mod server;
mod session;
mod socket;
mod studio;
mod thumbnails;
mod webrtc;

pub use server::{Address, Server, WebError};
pub use studio::{MakePainter, Preset, Studio};
