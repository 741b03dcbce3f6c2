//! Edits of a serialised model that copy, byte for byte, everything they do not change.

use std::collections::HashSet;
use std::io::Cursor;

use prost::Message;

use super::proto::{NodeProto, ValueInfoProto};
use super::wire::{GraphError, Payload, Source, put_bytes};

/// A part of a graph that an edit may change.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// An operator.
    Node(NodeProto),
    /// An input of the graph.
    Input(ValueInfoProto),
    /// An output of the graph.
    Output(ValueInfoProto),
    /// What is recorded about an inner tensor.
    Inner(ValueInfoProto),
}

/// What becomes of a part.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// It stays, byte for byte.
    Keep,
    /// These take its place: none to delete it, several to add some.
    Replace(Vec<Part>),
}

/// Copies `model`, asking `change` about every node, input, output and inner tensor in file order.
pub fn rewrite(model: &[u8], mut change: impl FnMut(&Part) -> Change) -> Result<Vec<u8>, GraphError> {
    let len = model.len() as u64;
    let mut out = Vec::with_capacity(model.len() + 1024);
    let mut source = Source::new(Cursor::new(model), len);
    loop {
        let start = source.position() as usize;
        let Some((number, payload)) = source.field(len)? else {
            return Ok(out);
        };
        if let (7, Payload::Bytes(bytes)) = (number, payload) {
            let end = source.position() + bytes;
            let graph = rewrite_graph(model, &mut source, end, &mut change)?;
            put_bytes(7, &graph, &mut out);
        } else {
            source.skip(payload)?;
            out.extend_from_slice(&model[start..source.position() as usize]);
        }
    }
}

fn rewrite_graph(
    model: &[u8],
    source: &mut Source<Cursor<&[u8]>>,
    end: u64,
    change: &mut impl FnMut(&Part) -> Change,
) -> Result<Vec<u8>, GraphError> {
    let mut out = Vec::with_capacity((end - source.position()) as usize + 1024);
    loop {
        let start = source.position() as usize;
        let Some((number, payload)) = source.field(end)? else {
            return Ok(out);
        };
        let content = source.position() as usize;
        source.skip(payload)?;
        let stop = source.position() as usize;
        let body = &model[content..stop];
        let part = match number {
            1 => Some(Part::Node(NodeProto::decode(body)?)),
            11 => Some(Part::Input(ValueInfoProto::decode(body)?)),
            12 => Some(Part::Output(ValueInfoProto::decode(body)?)),
            13 => Some(Part::Inner(ValueInfoProto::decode(body)?)),
            _ => None,
        };
        match part.map_or(Change::Keep, |part| change(&part)) {
            Change::Keep => out.extend_from_slice(&model[start..stop]),
            Change::Replace(parts) => parts.iter().for_each(|part| put_part(part, &mut out)),
        }
    }
}

fn put_part(part: &Part, out: &mut Vec<u8>) {
    match part {
        Part::Node(node) => put_bytes(1, &node.encode_to_vec(), out),
        Part::Input(value) => put_bytes(11, &value.encode_to_vec(), out),
        Part::Output(value) => put_bytes(12, &value.encode_to_vec(), out),
        Part::Inner(value) => put_bytes(13, &value.encode_to_vec(), out),
    }
}

/// The weights of those names, as raw `TensorProto`s.
pub(crate) fn weights(model: &[u8], names: &HashSet<&str>) -> Result<Vec<Vec<u8>>, GraphError> {
    let len = model.len() as u64;
    let mut source = Source::new(Cursor::new(model), len);
    let mut found = Vec::new();
    // Field numbers: 7 ModelProto.graph, 5 GraphProto.initializer, 8 TensorProto.name.
    while let Some((number, payload)) = source.field(len)? {
        let (7, Payload::Bytes(bytes)) = (number, payload) else {
            source.skip(payload)?;
            continue;
        };
        let end = source.position() + bytes;
        while let Some((number, payload)) = source.field(end)? {
            let start = source.position();
            if let (5, Payload::Bytes(bytes)) = (number, payload) {
                let stop = start + bytes;
                let mut is_wanted = false;
                while let Some((number, payload)) = source.field(stop)? {
                    if number == 8 {
                        let name = source.bytes(payload)?;
                        is_wanted = std::str::from_utf8(&name).is_ok_and(|n| names.contains(n));
                    } else {
                        source.skip(payload)?;
                    }
                }
                if is_wanted {
                    found.push(model[start as usize..stop as usize].to_vec());
                }
            } else {
                source.skip(payload)?;
            }
        }
    }
    Ok(found)
}
