//! Numbers of ours in ONNX Runtime's tensors, whatever type those have.

use half::slice::HalfFloatSliceExt as _;
use half::{bf16, f16};
use ort::value::{DynTensor, TensorElementType};

use crate::graph::DType;

/// ONNX Runtime's name of a type. What is not known here is refused where a network is loaded.
pub(crate) fn element(dtype: DType) -> TensorElementType {
    match dtype {
        DType::F16 => TensorElementType::Float16,
        DType::Bf16 => TensorElementType::Bfloat16,
        DType::I64 => TensorElementType::Int64,
        DType::I32 => TensorElementType::Int32,
        DType::F32 | DType::Other(_) => TensorElementType::Float32,
    }
}

pub(crate) fn write_values(tensor: &mut DynTensor, at: usize, values: &[f32]) -> ort::Result<()> {
    match *tensor.data_type() {
        TensorElementType::Float16 => {
            part(tensor.try_extract_tensor_mut::<f16>()?.1, at, values.len())?.convert_from_f32_slice(values);
        }
        TensorElementType::Bfloat16 => {
            part(tensor.try_extract_tensor_mut::<bf16>()?.1, at, values.len())?.convert_from_f32_slice(values);
        }
        TensorElementType::Int64 => {
            let out = part(tensor.try_extract_tensor_mut::<i64>()?.1, at, values.len())?;
            out.iter_mut().zip(values).for_each(|(out, &v)| *out = v.round() as i64);
        }
        TensorElementType::Int32 => {
            let out = part(tensor.try_extract_tensor_mut::<i32>()?.1, at, values.len())?;
            out.iter_mut().zip(values).for_each(|(out, &v)| *out = v.round() as i32);
        }
        _ => part(tensor.try_extract_tensor_mut::<f32>()?.1, at, values.len())?.copy_from_slice(values),
    }
    Ok(())
}

pub(crate) fn write_ids(tensor: &mut DynTensor, ids: &[u32]) -> ort::Result<()> {
    if *tensor.data_type() == TensorElementType::Int32 {
        let out = part(tensor.try_extract_tensor_mut::<i32>()?.1, 0, ids.len())?;
        out.iter_mut().zip(ids).for_each(|(out, &id)| *out = id as i32);
    } else {
        let out = part(tensor.try_extract_tensor_mut::<i64>()?.1, 0, ids.len())?;
        out.iter_mut().zip(ids).for_each(|(out, &id)| *out = i64::from(id));
    }
    Ok(())
}

pub(crate) fn read_values(tensor: &DynTensor, values: &mut [f32]) -> ort::Result<()> {
    let short = || ort::Error::new("the tensor has another length");
    match *tensor.data_type() {
        TensorElementType::Float16 => {
            let have = tensor.try_extract_tensor::<f16>()?.1;
            have.get(..values.len()).ok_or_else(short)?.convert_to_f32_slice(values);
        }
        TensorElementType::Bfloat16 => {
            let have = tensor.try_extract_tensor::<bf16>()?.1;
            have.get(..values.len()).ok_or_else(short)?.convert_to_f32_slice(values);
        }
        _ => {
            let have = tensor.try_extract_tensor::<f32>()?.1;
            values.copy_from_slice(have.get(..values.len()).ok_or_else(short)?);
        }
    }
    Ok(())
}

fn part<T>(all: &mut [T], at: usize, len: usize) -> ort::Result<&mut [T]> {
    let size = all.len();
    all.get_mut(at..at + len)
        .ok_or_else(|| ort::Error::new(format!("{len} values at {at} do not fit into a tensor of {size}")))
}
