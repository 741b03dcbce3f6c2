//! The queue of a card: our kernels on it, and one stream for them and ONNX Runtime.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use livediffusion_kernels::cuda::{Card, Image, ImageCache, NvrtcSearch, Stream, Target};
use livediffusion_kernels::gpu::GpuError;

use crate::provider::UserStream;
use crate::runtime::user_cache;

/// One for each card, kept until the process ends: sessions hold its address, and they end in an order that nobody tells.
static QUEUES: Mutex<BTreeMap<u32, &'static Stream>> = Mutex::new(BTreeMap::new());

/// The queue of a card, made when it is first asked for: the kernels are compiled then, or taken from the cache. `libraries` is
/// where NVRTC lies, if the user said so.
pub(crate) fn queue(card: u32, libraries: Option<&Path>) -> Result<&'static Stream, GpuError> {
    let mut queues = QUEUES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(queue) = queues.get(&card) {
        return Ok(queue);
    }
    let opened = Card::open(card as usize)?;
    let version = opened.driver().version();
    let cache = user_cache();
    let nvrtc = NvrtcSearch { explicit: libraries, cache: cache.as_deref(), driver: Some(version) }.load()?;
    let target = Target::for_card(opened.capability()?, &nvrtc)?;
    let images = cache.map(|cache| ImageCache::new(cache.join("kernels")));
    let image = Image::cached(images.as_ref(), &nvrtc, target, version)?;
    let queue: &'static Stream = Box::leak(Box::new(opened.with_kernels(image)?.stream()?));
    queues.insert(card, queue);
    Ok(queue)
}

/// The stream of a queue as sessions take it.
#[allow(unsafe_code, reason = "ONNX Runtime keeps the handle")]
pub(crate) fn user_stream(queue: &'static Stream) -> UserStream {
    // SAFETY: the queue is never dropped.
    unsafe { UserStream::new(queue.handle()) }
}
