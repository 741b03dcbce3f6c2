//! Where a kernel is tried: on the host behind the shim, or on a card, a real one or the one in software.

#![allow(unsafe_code, reason = "launches are handed on")]

use std::ffi::c_void;
use std::sync::OnceLock;

use livediffusion_kernels::cuda::Stream;
use livediffusion_kernels::gpu::{DType, Element, GpuError, Kernel, Launch, Limits, Place, Queue as _, Shape, Tensor};
use proptest::prelude::ProptestConfig;

use crate::host::Host;
use crate::host::software::{NEEDS_CARD, first_card};

/// At most so many cases of a property, and fewer where `PROPTEST_CASES` says so.
pub(crate) fn at_most(cases: u32) -> ProptestConfig {
    let config = ProptestConfig::default();
    ProptestConfig { cases: config.cases.min(cases), ..config }
}

/// One of them.
pub(crate) struct Device {
    limits: Limits,
    on: On,
}

enum On {
    Host(Host),
    Card(Stream),
}

impl Device {
    /// With room for a few blocks, so that kernels have to loop: a card where one is asked for ([`NEEDS_CARD`]), else the host; `None`,
    /// and a line that says why, without a C++ compiler.
    pub(crate) fn new(multiprocessors: u32) -> Option<Self> {
        // One context and stream for all cases of a property.
        static CARD: OnceLock<Option<Stream>> = OnceLock::new();
        if std::env::var_os(NEEDS_CARD).is_some() {
            let stream = CARD.get_or_init(|| first_card().map(|cuda| cuda.stream().unwrap())).clone()?;
            let limits = Limits { multiprocessors, threads_per_multiprocessor: 512 };
            return Some(Self { limits, on: On::Card(stream) });
        }
        let host = Host::new(multiprocessors)?;
        Some(Self { limits: host.limits(), on: On::Host(host) })
    }

    /// Zeros where the kernels reach them.
    pub(crate) fn zeros(&self, dtype: DType, shape: &[usize]) -> Tensor {
        match &self.on {
            On::Host(host) => host.zeros(dtype, shape).unwrap(),
            On::Card(stream) => stream.cuda().zeros(dtype, shape).unwrap(),
        }
    }

    /// A copy of these values where the kernels reach them.
    pub(crate) fn tensor<T: Element>(&self, values: &[T]) -> Tensor {
        let On::Card(stream) = &self.on else { return Tensor::from_values(values, &[values.len()]) };
        upload(stream, values)
    }

    /// What a tensor holds once everything has been done.
    pub(crate) fn values<T: Element>(&self, tensor: &Tensor) -> Vec<T> {
        match &self.on {
            On::Host(_) => tensor.as_slice::<T>().unwrap().to_vec(),
            On::Card(stream) => download(stream, tensor),
        }
    }
}

impl Launch for Device {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn place(&self) -> Place {
        match &self.on {
            On::Host(host) => host.place(),
            On::Card(stream) => stream.place(),
        }
    }

    unsafe fn launch(&self, kernel: Kernel, shape: Shape, arguments: &mut [*mut c_void]) -> Result<(), GpuError> {
        // SAFETY: the caller says of the arguments what either asks for.
        unsafe {
            match &self.on {
                On::Host(host) => host.launch(kernel, shape, arguments),
                On::Card(stream) => stream.launch(kernel, shape, arguments),
            }
        }
    }
}

/// A copy of these values on a card.
pub(crate) fn upload<T: Element>(stream: &Stream, values: &[T]) -> Tensor {
    let cuda = stream.cuda();
    let mut pinned = cuda.pinned(T::DTYPE, &[values.len()]).unwrap();
    pinned.as_mut_slice::<T>().unwrap().copy_from_slice(values);
    let mut tensor = cuda.zeros(T::DTYPE, &[values.len()]).unwrap();
    stream.upload(&pinned, tensor.view_mut()).unwrap();
    stream.synchronize().unwrap();
    tensor
}

/// What a tensor on a card holds once everything has been done.
pub(crate) fn download<T: Element>(stream: &Stream, tensor: &Tensor) -> Vec<T> {
    let mut pinned = stream.cuda().pinned(tensor.dtype(), tensor.shape()).unwrap();
    stream.download(tensor.view(), &mut pinned).unwrap();
    pinned.as_slice::<T>().unwrap().to_vec()
}
