//! What goes over the WebSocket: binary messages with a picture, text messages with JSON.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// Bytes before a binary message's payload.
pub const HEADER: usize = 20;

/// Longest payload: a photograph of 12 megapixels fits, and a page sends a tenth of that.
pub const MOST_PAYLOAD: usize = 4 << 20;

/// Longest text message: a prompt of 10 000 letters, escaped, fits several times.
pub const MOST_TEXT: usize = 256 << 10;

const MAGIC: [u8; 2] = *b"LD";
const VERSION: u8 = 1;

/// What a binary message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Page to server: a frame, JPEG or WebP.
    Frame = 1,
    /// Server to page: a picture, JPEG, with the id and time of its frame.
    Picture = 2,
    /// Server to page: a preset's thumbnail, JPEG; the id is the preset's place.
    Thumbnail = 3,
    /// Server to page: that frame was dropped.
    Dropped = 4,
    /// Server to page: that frame is in the stream batch; its picture comes with a later frame.
    Taken = 5,
}

/// The head of a binary message: `LD`, version, kind, id and capture time (u64, little endian).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the message is.
    pub kind: Kind,
    /// The frame's number, as the page gave it.
    pub id: u64,
    /// When the page captured it, in microseconds of its own clock; the server echoes it.
    pub time_us: u64,
}

/// Why a binary message was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    /// Shorter than its header.
    #[error("the message is shorter than its header of {HEADER} bytes")]
    Short,
    /// Of another protocol or version.
    #[error("the message does not begin with LD and version {VERSION}: reload the page")]
    Version,
    /// A kind that a page does not send.
    #[error("a page sends frames, not messages of kind {0}")]
    Kind(u8),
    /// A frame without a picture, or with too large a one.
    #[error("a frame has up to {MOST_PAYLOAD} bytes, not {0}")]
    Payload(usize),
}

impl Header {
    /// A message with this header.
    pub fn message(self, payload: &[u8]) -> Bytes {
        let mut message = BytesMut::with_capacity(HEADER + payload.len());
        message.put_slice(&MAGIC);
        message.put_u8(VERSION);
        message.put_u8(self.kind as u8);
        message.put_u64_le(self.id);
        message.put_u64_le(self.time_us);
        message.put_slice(payload);
        message.freeze()
    }

    /// Reads a page's message: its header and its payload.
    ///
    /// # Errors
    /// Whatever is not a frame.
    pub fn frame(message: &Bytes) -> Result<(Self, Bytes), BadMessage> {
        let head = message.get(..HEADER).ok_or(BadMessage::Short)?;
        if head[..2] != MAGIC || head[2] != VERSION {
            return Err(BadMessage::Version);
        }
        if head[3] != Kind::Frame as u8 {
            return Err(BadMessage::Kind(head[3]));
        }
        let payload = message.slice(HEADER..);
        if payload.is_empty() || payload.len() > MOST_PAYLOAD {
            return Err(BadMessage::Payload(payload.len()));
        }
        let number = |at: usize| head[at..at + 8].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
        Ok((Self { kind: Kind::Frame, id: number(4), time_us: number(12) }, payload))
    }
}

/// Parameters by name, as text, in the way of flags.
pub type Values = BTreeMap<String, String>;

/// A JSON value as the text of a flag, so that `{"guidance": 1.2}` does what it says.
pub(crate) fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Array(items) => items.iter().map(text_of).collect::<Option<Vec<_>>>().map(|items| items.join(",")),
        Value::Null | Value::Object(_) => None,
    }
}

fn texts<'de, D: Deserializer<'de>>(from: D) -> Result<Values, D::Error> {
    let text = |(name, value): (String, Value)| match text_of(&value) {
        Some(text) => Ok((name, text)),
        None => Err(D::Error::custom(format!("{name} is no text, number or list"))),
    };
    Map::<String, Value>::deserialize(from)?.into_iter().map(text).collect()
}

/// What a page asks for.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// Change parameters.
    Set {
        /// The new values: texts, numbers or lists.
        #[serde(deserialize_with = "texts")]
        parameters: Values,
        /// Whether one that is refused leaves the others in force; else none of them is.
        #[serde(default)]
        each: bool,
    },
    /// Take a preset.
    Preset {
        /// Its name.
        name: String,
    },
    /// Paint the newest frame under every preset, in the gaps between frames.
    Thumbnails,
    /// A picture was drawn.
    Ack {
        /// Its frame.
        id: u64,
    },
}

/// What the server says.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Reply<'a> {
    /// The session begins.
    Hello {
        /// Its name.
        session: &'a str,
        /// Size of its pictures.
        size: String,
        /// Name of the model.
        model: &'a str,
        /// What runs the networks.
        provider: &'a str,
        /// Their arithmetic.
        precision: &'a str,
        /// Of the program.
        version: &'a str,
        /// All parameters.
        parameters: Values,
    },
    /// Every session is taken.
    Waiting {
        /// Place in the line, 1 is the next.
        position: usize,
        /// Sessions that there are.
        sessions: usize,
    },
    /// Parameters changed.
    Parameters {
        /// Size of the pictures.
        size: String,
        /// All parameters.
        parameters: Values,
    },
    /// What holds the frame rate, where one was asked for (`--target-fps`): when it changes.
    Quality {
        /// Size of the network's picture.
        size: String,
        /// Steps of each frame.
        steps: usize,
    },
    /// Prompts are longer than the model takes: when what is not used changes.
    Unused {
        /// The end of the prompt; empty where all of it is used.
        prompt: String,
        /// Of the negative prompt.
        negative: String,
    },
    /// Once a second.
    Stats(Numbers),
    /// Something that the person should know; the connection goes on.
    Error {
        /// What.
        message: String,
        /// What to do about it.
        hint: Option<String>,
        /// The parameters that were refused, with the values that stay in force; null where there is no such parameter.
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        refused: BTreeMap<String, Option<String>>,
    },
}

/// How a session does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Numbers {
    /// Pictures in the last second.
    pub fps: f64,
    /// Mean time of a frame in the engine, over the last second.
    pub engine_ms: f64,
    /// Mean time that a frame waited for the engine, over the last second.
    pub wait_ms: f64,
    /// Frames that came.
    pub frames_in: u64,
    /// Pictures that left.
    pub frames_out: u64,
    /// Frames that a newer one replaced, or that could not be read.
    pub frames_dropped: u64,
    /// Frames that the similarity filter answered.
    pub frames_skipped: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let header = Header { kind: Kind::Frame, id: 0x0102_0304_0506_0708, time_us: u64::MAX - 5 };
        let message = header.message(b"jpeg");
        assert_eq!(&message[..6], b"LD\x01\x01\x08\x07");
        assert_eq!(Header::frame(&message), Ok((header, Bytes::from_static(b"jpeg"))));
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let message = |kind, payload: &[u8]| Header { kind, id: 1, time_us: 2 }.message(payload);
        assert_eq!(Header::frame(&Bytes::from_static(b"LD")), Err(BadMessage::Short));
        assert_eq!(Header::frame(&Bytes::from_static(&[0; 30])), Err(BadMessage::Version));
        assert_eq!(Header::frame(&message(Kind::Picture, b"x")), Err(BadMessage::Kind(2)));
        assert_eq!(Header::frame(&message(Kind::Frame, b"")), Err(BadMessage::Payload(0)));
        let long = vec![0; MOST_PAYLOAD + 1];
        assert_eq!(Header::frame(&message(Kind::Frame, &long)), Err(BadMessage::Payload(MOST_PAYLOAD + 1)));
    }

    #[test]
    fn requests_are_read_and_others_refused() {
        let set: Request = serde_json::from_str(r#"{"type":"set","parameters":{"prompt":"a fox"}}"#).unwrap();
        assert_eq!(set, Request::Set { parameters: Values::from([("prompt".into(), "a fox".into())]), each: false });
        let set =
            r#"{"type":"set","each":true,"parameters":{"guidance":1.2,"t-index":[32,45],"seed":18446744073709551615}}"#;
        let pairs = [("guidance", "1.2"), ("t-index", "32,45"), ("seed", "18446744073709551615")];
        let parameters = pairs.map(|(name, text)| (name.to_owned(), text.to_owned())).into();
        assert_eq!(serde_json::from_str::<Request>(set).unwrap(), Request::Set { parameters, each: true });
        assert_eq!(serde_json::from_str::<Request>(r#"{"type":"ack","id":7}"#).unwrap(), Request::Ack { id: 7 });
        for bad in
            [r#"{"type":"nonsense"}"#, r#"{"type":"ack","id":-1}"#, r#"{"type":"set","parameters":{"a":{}}}"#, "[]"]
        {
            assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_and_lists_become_the_text_of_a_flag() {
        for (value, text) in [
            (serde_json::json!(1.2), "1.2"),
            (serde_json::json!([32, 45]), "32,45"),
            (serde_json::json!(true), "true"),
            (serde_json::json!("a"), "a"),
        ] {
            assert_eq!(text_of(&value).as_deref(), Some(text));
        }
        assert_eq!((text_of(&serde_json::json!(null)), text_of(&serde_json::json!([{}]))), (None, None));
    }
}
