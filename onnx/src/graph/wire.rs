//! The wire format of protocol buffers, read field by field.
//!
//! A U-Net's file is gigabytes of weights around a few kilobytes of description. Reading fields one by one lets the
//! weights be skipped without reading them, and lets an edit copy every byte that it does not mean to change.

use std::io::{self, Read, Seek};

/// Why a file is not a readable ONNX model. Names no file: the caller knows it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// The file ends in the middle of a field.
    #[error("the file is cut off after {0} bytes")]
    Truncated(u64),
    /// The bytes cannot be a protocol buffer of this type.
    #[error("not an ONNX model ({0})")]
    Malformed(String),
    /// Something that an edit would have to know.
    #[error("{0} is not known in f16")]
    Unknown(String),
    /// The file could not be read.
    #[error("cannot be read: {0}")]
    Io(String),
}

impl From<prost::DecodeError> for GraphError {
    fn from(error: prost::DecodeError) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// What follows a field's tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Payload {
    /// An integer, already read.
    Varint(u64),
    /// That many bytes, not yet read.
    Bytes(u64),
}

/// A seekable source of fields.
pub(super) struct Source<R> {
    inner: R,
    len: u64,
    pos: u64,
}

impl<R: Read + Seek> Source<R> {
    /// Reads from the start of `inner`, which is `len` bytes long.
    pub(super) fn new(inner: R, len: u64) -> Self {
        Self { inner, len, pos: 0 }
    }

    /// Where the next read happens.
    pub(super) fn position(&self) -> u64 {
        self.pos
    }

    /// The next field before `end`: its number and payload; `None` at `end`.
    pub(super) fn field(&mut self, end: u64) -> Result<Option<(u64, Payload)>, GraphError> {
        if self.pos >= end {
            return Ok(None);
        }
        let tag = self.varint()?;
        let payload = match tag & 7 {
            0 => Payload::Varint(self.varint()?),
            1 => Payload::Bytes(8),
            2 => Payload::Bytes(self.varint()?),
            5 => Payload::Bytes(4),
            other => {
                return Err(GraphError::Malformed(format!("wire type {other} at byte {}", self.pos)));
            }
        };
        if let Payload::Bytes(len) = payload {
            let stop = self.pos.checked_add(len).ok_or_else(|| GraphError::Malformed("length overflow".into()))?;
            if stop > self.len {
                return Err(GraphError::Truncated(self.len));
            }
            if stop > end {
                return Err(GraphError::Malformed(format!("a field runs over its message at byte {}", self.pos)));
            }
        }
        Ok(Some((tag >> 3, payload)))
    }

    /// Passes over a payload.
    pub(super) fn skip(&mut self, payload: Payload) -> Result<(), GraphError> {
        if let Payload::Bytes(len) = payload {
            self.inner.seek_relative(len as i64).map_err(|e| GraphError::Io(e.to_string()))?;
            self.pos += len;
        }
        Ok(())
    }

    /// Reads a payload of bytes.
    pub(super) fn bytes(&mut self, payload: Payload) -> Result<Vec<u8>, GraphError> {
        let Payload::Bytes(len) = payload else {
            return Err(GraphError::Malformed(format!("an integer where a message belongs, at byte {}", self.pos)));
        };
        let mut bytes = vec![0; len as usize];
        self.inner.read_exact(&mut bytes).map_err(|e| self.io(&e))?;
        self.pos += len;
        Ok(bytes)
    }

    fn varint(&mut self) -> Result<u64, GraphError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            self.inner.read_exact(&mut byte).map_err(|e| self.io(&e))?;
            self.pos += 1;
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(GraphError::Malformed(format!("an endless integer at byte {}", self.pos)))
    }

    fn io(&self, error: &io::Error) -> GraphError {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            GraphError::Truncated(self.len)
        } else {
            GraphError::Io(error.to_string())
        }
    }
}

/// Appends a varint.
pub(super) fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends field `number` holding `bytes`.
pub(super) fn put_bytes(number: u64, bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(number << 3 | 2, out);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}
