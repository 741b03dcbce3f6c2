//! A CUDA card: its driver, memory, streams and events, and NVRTC, which compiles the kernels.
//!
//! Both libraries are loaded at run time, so that the same binary runs where there are none. `cudarc` panics where the driver's
//! library is missing: [`Driver::find`] and [`Card::open`] look for it before anything else is called, and everything else here
//! needs what they give.

mod cache;
mod capture;
mod compile;
mod device;
mod driver;
mod find;
mod memory;
mod nvrtc;
mod stream;

pub use cache::ImageCache;
pub use capture::{Capturing, NotCapturing};
pub use compile::{Image, Target, compile};
pub use device::{Card, Cuda};
pub use driver::{Driver, dotted};
pub use find::{NvrtcSearch, library_folders};
pub(crate) use memory::{DeviceMemory, PinnedMemory};
pub use nvrtc::Nvrtc;
pub use stream::{Event, Stream};
