//! Tensors in the host's memory or a card's.

use std::fmt;
use std::marker::PhantomData;

use half::f16;

use crate::cuda::{DeviceMemory, PinnedMemory};
use crate::gpu::error::GpuError;

/// Type of a tensor's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    /// Bytes of pictures.
    U8,
    /// 16-bit floats.
    F16,
    /// 32-bit floats.
    F32,
    /// 64-bit floats: the sums of the similarity filter.
    F64,
    /// Flags and tickets.
    U32,
    /// Time steps of networks that count them.
    I32,
    /// Time steps, as most exports have them.
    I64,
}

impl DType {
    /// Bytes of a value.
    pub const fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 => 2,
            Self::F32 | Self::U32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::U8 => "u8",
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::I64 => "i64",
        })
    }
}

/// A type whose values tensors hold. All of its bit patterns are values, zero among them.
pub trait Element: Copy + sealed::Sealed {
    /// Which it is.
    const DTYPE: DType;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! elements {
    ($($type:ty => $dtype:ident),*) => {$(
        impl sealed::Sealed for $type {}
        impl Element for $type {
            const DTYPE: DType = DType::$dtype;
        }
    )*};
}
elements!(u8 => U8, f16 => F16, f32 => F32, f64 => F64, u32 => U32, i32 => I32, i64 => I64);

/// Whose memory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The host's.
    Host,
    /// That of the CUDA device of this number.
    Device(usize),
}

enum Memory {
    Host(Vec<Line>),
    Pinned(PinnedMemory),
    Device(DeviceMemory),
}

/// As much as a cache line, and as strict as any access of a kernel.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Values of one type in one piece of memory, at an address that stays.
pub struct Tensor {
    memory: Memory,
    dtype: DType,
    shape: Vec<usize>,
}

impl Tensor {
    /// Zeros in the host's memory.
    pub fn host(dtype: DType, shape: &[usize]) -> Self {
        let lines = bytes(dtype, shape).div_ceil(64);
        Self { memory: Memory::Host(vec![Line([0; 64]); lines]), dtype, shape: shape.to_vec() }
    }

    pub(crate) fn pinned(memory: PinnedMemory, dtype: DType, shape: &[usize]) -> Self {
        Self { memory: Memory::Pinned(memory), dtype, shape: shape.to_vec() }
    }

    pub(crate) fn device(memory: DeviceMemory, dtype: DType, shape: &[usize]) -> Self {
        Self { memory: Memory::Device(memory), dtype, shape: shape.to_vec() }
    }

    /// A copy of `values` in the host's memory.
    ///
    /// # Panics
    /// If there are more or fewer values than the shape says.
    pub fn from_values<T: Element>(values: &[T], shape: &[usize]) -> Self {
        let mut tensor = Self::host(T::DTYPE, shape);
        match tensor.as_mut_slice::<T>() {
            Ok(all) => all.copy_from_slice(values),
            Err(error) => unreachable!("{error}"),
        }
        tensor
    }

    /// Type of its values.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Its sides, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whose memory it is in. Pinned memory is the host's.
    pub fn place(&self) -> Place {
        match &self.memory {
            Memory::Host(_) | Memory::Pinned(_) => Place::Host,
            Memory::Device(memory) => Place::Device(memory.ordinal()),
        }
    }

    /// The address of its first value, in its place.
    pub fn address(&self) -> u64 {
        match &self.memory {
            Memory::Host(lines) => lines.as_ptr() as u64,
            Memory::Pinned(memory) => memory.address(),
            Memory::Device(memory) => memory.address(),
        }
    }

    /// All of it, to be read.
    pub fn view(&self) -> View<'_> {
        View { address: self.address(), len: self.len(), dtype: self.dtype, place: self.place(), borrow: PhantomData }
    }

    /// All of it, to be written.
    pub fn view_mut(&mut self) -> ViewMut<'_> {
        ViewMut { view: View { borrow: PhantomData, ..self.view() }, borrow: PhantomData }
    }

    /// Its values, where they are in the host's memory. Pinned memory waits for copies that are on their way.
    #[allow(unsafe_code, reason = "bytes as values")]
    pub fn as_slice<T: Element>(&self) -> Result<&[T], GpuError> {
        let start = self.host_start::<T>()?;
        // SAFETY: the memory is alive, aligned to 64 bytes, initialised, and as long as type and shape say; any bits are a value
        // of an Element; nothing writes while it is borrowed, since copies into pinned memory are awaited.
        Ok(unsafe { std::slice::from_raw_parts(start.cast::<T>(), self.len()) })
    }

    /// Its values, to be written.
    #[allow(unsafe_code, reason = "bytes as values")]
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<&mut [T], GpuError> {
        let start = self.host_start::<T>()?;
        // SAFETY: as in `as_slice`; the tensor is borrowed mutably and nothing else knows the memory.
        Ok(unsafe { std::slice::from_raw_parts_mut(start.cast_mut().cast::<T>(), self.len()) })
    }

    fn host_start<T: Element>(&self) -> Result<*const u8, GpuError> {
        if T::DTYPE != self.dtype {
            return Err(GpuError::misuse(format!("a tensor of {} is not one of {}", self.dtype, T::DTYPE)));
        }
        match &self.memory {
            Memory::Host(lines) => Ok(lines.as_ptr().cast()),
            Memory::Pinned(memory) => memory.settled(),
            Memory::Device(_) => Err(GpuError::misuse("the values are in a card's memory")),
        }
    }

    pub(crate) fn pinned_memory(&self) -> Option<&PinnedMemory> {
        if let Memory::Pinned(memory) = &self.memory { Some(memory) } else { None }
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?} in {:?}", self.dtype, self.shape, self.place())
    }
}

/// Bytes of a tensor.
pub(crate) fn bytes(dtype: DType, shape: &[usize]) -> usize {
    shape.iter().product::<usize>() * dtype.size()
}

/// Values of a tensor, to be read by a kernel.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    address: u64,
    len: usize,
    dtype: DType,
    place: Place,
    borrow: PhantomData<&'a ()>,
}

impl View<'_> {
    /// The `len` values from `at` on; an error where there are fewer.
    pub fn part(self, at: usize, len: usize) -> Result<Self, GpuError> {
        if at.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(GpuError::misuse(format!("{len} values at {at} of a tensor of {}", self.len)));
        }
        Ok(Self { address: self.address + (at * self.dtype.size()) as u64, len, ..self })
    }

    /// Where it starts.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Type of the values.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Whose memory they are in.
    pub fn place(&self) -> Place {
        self.place
    }
}

/// Values of a tensor, to be written by a kernel.
#[derive(Debug)]
pub struct ViewMut<'a> {
    view: View<'a>,
    borrow: PhantomData<&'a mut ()>,
}

impl<'a> ViewMut<'a> {
    /// The `len` values from `at` on; an error where there are fewer.
    pub fn part(self, at: usize, len: usize) -> Result<Self, GpuError> {
        Ok(Self { view: self.view.part(at, len)?, ..self })
    }

    /// The first `len` values, and the rest; an error where there are fewer.
    pub fn split(self, len: usize) -> Result<(Self, Self), GpuError> {
        let rest = self.view.len.saturating_sub(len);
        let (first, second) = (self.view.part(0, len)?, self.view.part(len, rest)?);
        Ok((Self { view: first, ..self }, Self { view: second, borrow: PhantomData }))
    }

    /// The same values, borrowed for a shorter time.
    pub fn again(&mut self) -> ViewMut<'_> {
        ViewMut { view: self.view, borrow: PhantomData }
    }

    /// The same values, to be read.
    pub fn as_view(&self) -> View<'_> {
        self.view
    }

    /// The same values, for whom neither reads nor writes while this exists.
    pub(crate) fn into_view(self) -> View<'a> {
        self.view
    }
}
