//! An input of the U-Net that has values for each row, of which few change from call to call.

use half::f16;
use livediffusion_kernels::gpu::{DType, GpuError, Queue, Tensor};

/// Rows in a device's memory, and pinned memory of the host through which each is written.
pub(super) struct Rows {
    pub(super) tensor: Tensor,
    staging: Vec<Tensor>,
    /// Values of a row.
    width: usize,
}

impl Rows {
    /// `count` rows of `width` values.
    pub(super) fn new<Q: Queue>(queue: &Q, dtype: DType, count: usize, width: usize) -> Result<Self, GpuError> {
        let staging = (0..count).map(|_| queue.pinned(dtype, &[width])).collect::<Result<_, _>>()?;
        Ok(Self { tensor: queue.zeros(dtype, &[count, width])?, staging, width })
    }

    /// Writes a row, once what is in the queue has read what it held. Numbers are rounded to what the network takes.
    pub(super) fn write<Q: Queue>(&mut self, queue: &Q, row: usize, values: &[f32]) -> Result<(), GpuError> {
        let staging = &mut self.staging[row];
        fill(staging, values)?;
        let part = self.tensor.view_mut().part(row * self.width, self.width)?;
        queue.upload(staging, part)
    }
}

fn fill(tensor: &mut Tensor, values: &[f32]) -> Result<(), GpuError> {
    match tensor.dtype() {
        DType::F16 => {
            tensor.as_mut_slice::<f16>()?.iter_mut().zip(values).for_each(|(to, &v)| *to = f16::from_f32(v));
        }
        DType::I32 => {
            tensor.as_mut_slice::<i32>()?.iter_mut().zip(values).for_each(|(to, &v)| *to = v.round() as i32);
        }
        DType::I64 => {
            tensor.as_mut_slice::<i64>()?.iter_mut().zip(values).for_each(|(to, &v)| *to = v.round() as i64);
        }
        _ => tensor.as_mut_slice::<f32>()?.copy_from_slice(values),
    }
    Ok(())
}
