//! Our numbers as a server takes them, and its answers as ours.

use bytes::{BufMut, BytesMut};
use half::{bf16, f16};
use livediffusion_onnx::graph::{DType, Dim, TensorInfo};
use livediffusion_pipeline::model::ModelError;

use crate::proto::{ModelInferResponse, TensorMetadata};

/// An input or output of the model, as the server calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) info: TensorInfo,
    /// The type as the server writes it.
    pub(crate) datatype: String,
    /// Whether one number for each row has a side of its own, which is 1: Triton knows no tensor of rows alone.
    pub(crate) is_spread: bool,
}

impl Port {
    /// Of what the server says.
    pub(crate) fn of(tensor: &TensorMetadata) -> Self {
        let dtype = dtype_of(&tensor.datatype);
        let side = |(axis, &side): (usize, &i64)| match usize::try_from(side) {
            Ok(side) => Dim::Fixed(side),
            Err(_) if axis == 0 => Dim::Symbol("rows".to_owned()),
            Err(_) => Dim::Unknown,
        };
        let mut dims: Vec<Dim> = tensor.shape.iter().enumerate().map(side).collect();
        let is_spread = dims.len() == 2 && dims[1] == Dim::Fixed(1);
        if is_spread {
            dims.truncate(1);
        }
        let info = TensorInfo { name: tensor.name.clone(), dtype, dims: Some(dims) };
        Self { info, datatype: tensor.datatype.clone(), is_spread }
    }

    /// Its description in a call with these sides.
    pub(crate) fn with_shape(&self, sides: &[usize]) -> TensorMetadata {
        let mut shape: Vec<i64> = sides.iter().map(|&side| side as i64).collect();
        if self.is_spread {
            shape.push(1);
        }
        TensorMetadata { name: self.info.name.clone(), datatype: self.datatype.clone(), shape }
    }

    /// Whether fractions can be taken from it.
    pub(crate) fn is_float(&self) -> bool {
        matches!(self.info.dtype, DType::F32 | DType::F16 | DType::Bf16)
    }

    /// Whether numbers can be given to it.
    pub(crate) fn is_numeric(&self) -> bool {
        !matches!(self.info.dtype, DType::Other(_))
    }
}

/// The types that can be given and taken, by their names on the wire.
const DATATYPES: [(&str, DType); 5] =
    [("FP32", DType::F32), ("FP16", DType::F16), ("BF16", DType::Bf16), ("INT64", DType::I64), ("INT32", DType::I32)];

/// The type of that name; one that whoever needs it refuses where it is none of those.
pub(crate) fn dtype_of(datatype: &str) -> DType {
    // `onnx.TensorProto.DataType`'s "undefined".
    DATATYPES.iter().find(|(name, _)| *name == datatype).map_or(DType::Other(0), |(_, dtype)| *dtype)
}

/// Its name.
pub(crate) fn datatype_of(dtype: DType) -> &'static str {
    DATATYPES.iter().find(|(_, known)| *known == dtype).map_or("", |(name, _)| *name)
}

/// Bytes of a number of that type.
pub(crate) fn width(dtype: DType) -> usize {
    match dtype {
        DType::F16 | DType::Bf16 => 2,
        DType::I64 => 8,
        DType::F32 | DType::I32 | DType::Other(_) => 4,
    }
}

/// Appends numbers in a server's type, little-endian.
pub(crate) fn put(dtype: DType, values: &[f32], to: &mut BytesMut) {
    to.reserve(values.len() * width(dtype));
    match dtype {
        DType::F16 => values.iter().for_each(|&value| to.put_u16_le(f16::from_f32(value).to_bits())),
        DType::Bf16 => values.iter().for_each(|&value| to.put_u16_le(bf16::from_f32(value).to_bits())),
        DType::I64 => values.iter().for_each(|&value| to.put_i64_le(value.round() as i64)),
        DType::I32 => values.iter().for_each(|&value| to.put_i32_le(value.round() as i32)),
        DType::F32 | DType::Other(_) => values.iter().for_each(|&value| to.put_f32_le(value)),
    }
}

/// Writes the answer's output `port` to `out`.
///
/// # Errors
/// It has not that output, or another type or number of values, with what it has.
pub(crate) fn take(answer: &ModelInferResponse, port: &Port, out: &mut [f32]) -> Result<(), ModelError> {
    let name = &port.info.name;
    let wrong = |what: String| ModelError::new(format!("U-Net: the server's answer has {what}"));
    let at = answer.outputs.iter().position(|output| output.name == *name);
    let Some(at) = at else { return Err(wrong(format!("no {name}"))) };
    let output = &answer.outputs[at];
    if output.datatype != port.datatype {
        return Err(wrong(format!("{name} in {}, and the model's description in {}", output.datatype, port.datatype)));
    }
    let count = |have: usize| wrong(format!("{have} values in {name} where {} are expected", out.len()));
    if let Some(raw) = answer.raw_output_contents.get(at) {
        if raw.len() != out.len() * width(port.info.dtype) {
            return Err(count(raw.len() / width(port.info.dtype)));
        }
        get(port.info.dtype, raw, out);
        return Ok(());
    }
    let values = output.contents.as_ref().map_or(&[][..], |contents| &contents.fp32_contents);
    if values.len() != out.len() {
        return Err(count(values.len()));
    }
    out.copy_from_slice(values);
    Ok(())
}

/// The opposite of [`put`]: as many numbers as there are on the shorter side.
pub(crate) fn get(dtype: DType, raw: &[u8], out: &mut [f32]) {
    match dtype {
        DType::F16 => numbers(raw, out, |bytes| f16::from_le_bytes(bytes).to_f32()),
        DType::Bf16 => numbers(raw, out, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        DType::I64 => numbers(raw, out, |bytes| i64::from_le_bytes(bytes) as f32),
        DType::I32 => numbers(raw, out, |bytes| i32::from_le_bytes(bytes) as f32),
        DType::F32 | DType::Other(_) => numbers(raw, out, f32::from_le_bytes),
    }
}

fn numbers<const N: usize>(raw: &[u8], out: &mut [f32], number: impl Fn([u8; N]) -> f32) {
    out.iter_mut().zip(raw.as_chunks().0).for_each(|(out, bytes)| *out = number(*bytes));
}
