//! What a file says of its weights, without their values.

use std::io::{Read, Seek};

use super::DType;
use super::proto::TensorProto;
use super::wire::{GraphError, Payload, Source};

/// Most bytes of a tensor of integers whose values are kept: graphs reckon with shapes by such.
const LARGEST: u64 = 256;

/// `onnx.TensorProto.DataType` of 64-bit integers.
const I64: u64 = 7;

/// A weight.
#[derive(Clone, Debug)]
pub(super) struct Weight {
    /// Its sides, outermost first.
    pub(super) dims: Vec<i64>,
    /// Type of its elements.
    pub(super) dtype: DType,
    /// Its values, if they are a few integers in the file.
    pub(super) ints: Option<Vec<i64>>,
    /// Whether its values lie in another file.
    pub(super) is_external: bool,
}

impl Weight {
    /// Reads a `TensorProto` that ends at `end`: its name and the rest.
    pub(super) fn read<R: Read + Seek>(source: &mut Source<R>, end: u64) -> Result<(String, Self), GraphError> {
        let (mut name, mut dtype) = (String::new(), 0);
        let mut weight = Self { dims: Vec::new(), dtype: DType::Other(0), ints: None, is_external: false };
        // Put together again of the fields that are small, to be decoded as it would be.
        let mut small = TensorProto::default();
        // Field numbers of onnx.TensorProto: 1 dims, 2 data_type, 7 int64_data, 8 name, 9 raw_data, 14 data_location (1 is EXTERNAL).
        while let Some((number, payload)) = source.field(end)? {
            match (number, payload) {
                (1, Payload::Varint(side)) => weight.dims.push(side as i64),
                (1, Payload::Bytes(bytes)) if bytes <= LARGEST => weight.dims.extend(varints(&source.bytes(payload)?)?),
                (2, Payload::Varint(number)) => dtype = number,
                (7, Payload::Varint(value)) if small.int64_data.len() < LARGEST as usize => {
                    small.int64_data.push(value as i64);
                }
                (7, Payload::Bytes(bytes)) if bytes <= LARGEST => {
                    small.int64_data.extend(varints(&source.bytes(payload)?)?);
                }
                (8, Payload::Bytes(_)) => name = String::from_utf8_lossy(&source.bytes(payload)?).into_owned(),
                (9, Payload::Bytes(bytes)) if bytes <= LARGEST && dtype == I64 => {
                    small.raw_data = source.bytes(payload)?;
                }
                (14, Payload::Varint(location)) => weight.is_external = location == 1,
                _ => source.skip(payload)?,
            }
        }
        weight.dtype = DType::from_onnx(dtype as i32);
        if dtype == I64 && !weight.is_external {
            weight.ints = TensorProto { dims: weight.dims.clone(), data_type: I64 as i32, ..small }.to_i64();
        }
        Ok((name, weight))
    }
}

/// Integers side by side.
fn varints(mut bytes: &[u8]) -> Result<Vec<i64>, GraphError> {
    let mut values = Vec::new();
    while !bytes.is_empty() {
        values.push(prost::encoding::decode_varint(&mut bytes)? as i64);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use prost::Message as _;

    use super::*;

    #[test]
    fn a_few_integers_are_kept_and_other_values_passed_over() {
        let read = |tensor: &TensorProto| {
            let bytes = tensor.encode_to_vec();
            let len = bytes.len() as u64;
            Weight::read(&mut Source::new(Cursor::new(bytes), len), len).unwrap()
        };
        let (name, weight) = read(&TensorProto::of_i64("shape", Some(3), &[2, -1, 40]));
        assert_eq!((name.as_str(), weight.dims, weight.ints), ("shape", vec![3], Some(vec![2, -1, 40])));
        let in_field =
            TensorProto { raw_data: Vec::new(), int64_data: vec![7], ..TensorProto::of_i64("n", None, &[7]) };
        assert_eq!(read(&in_field).1.ints, Some(vec![7]));
        let (name, weight) = read(&TensorProto::of_f32("w", &[2, 2], &[1.0; 4]));
        assert_eq!((name.as_str(), weight.dims, weight.ints), ("w", vec![2, 2], None));
        // As many as its sides say, or none.
        assert_eq!(read(&TensorProto { dims: vec![4], ..TensorProto::of_i64("s", Some(3), &[1, 2, 3]) }).1.ints, None);
        assert_eq!(read(&TensorProto::of_i64("long", Some(64), &[1; 64])).1.ints, None);
    }
}
