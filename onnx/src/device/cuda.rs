//! The queues of a card: our kernels on it, and streams for them and ONNX Runtime.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use livediffusion_kernels::cuda::{Card, Image, ImageCache, NvrtcSearch, Stream, Target};
use livediffusion_kernels::gpu::{GpuError, Queues};

use crate::provider::UserStream;
use crate::runtime::user_cache;

/// Three for each card, kept until the process ends: sessions hold their addresses, and they end in an order that nobody tells.
static QUEUES: Mutex<BTreeMap<u32, &'static Queues<Stream>>> = Mutex::new(BTreeMap::new());

/// The queues of a card, made when they are first asked for: the kernels are compiled then, or taken from the cache. `libraries` is
/// where NVRTC lies, if the user said so. `apart`: three of them, else one for all.
pub(crate) fn queues(card: u32, libraries: Option<&Path>, apart: bool) -> Result<Queues<Stream>, GpuError> {
    let queues = kept(card, libraries)?;
    Ok(if apart { queues.clone() } else { Queues::one(&queues.work) })
}

fn kept(card: u32, libraries: Option<&Path>) -> Result<&'static Queues<Stream>, GpuError> {
    let mut queues = QUEUES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(made) = queues.get(&card) {
        return Ok(made);
    }
    let opened = Card::open(card as usize)?;
    let version = opened.driver().version();
    let cache = user_cache();
    let capability = opened.capability()?;
    let search =
        NvrtcSearch { explicit: libraries, cache: cache.as_deref(), driver: Some(version), card: Some(capability) };
    let nvrtc = search.load()?;
    let target = Target::for_card(capability, &nvrtc)?;
    let images = cache.map(|cache| ImageCache::new(cache.join("kernels")));
    let image = Image::cached(images.as_ref(), &nvrtc, target, version)?;
    let card_with_kernels = opened.with_kernels(image)?;
    let stream = || card_with_kernels.stream();
    let made: &'static Queues<Stream> = Box::leak(Box::new(Queues::apart(stream()?, stream()?, stream()?)));
    queues.insert(card, made);
    Ok(made)
}

/// The stream of a queue that [`queues`] gave, as sessions take it.
#[allow(unsafe_code, reason = "ONNX Runtime keeps the handle")]
pub(crate) fn user_stream(queue: &Stream) -> UserStream {
    // SAFETY: a clone of the queue is kept, and never dropped.
    unsafe { UserStream::new(queue.handle()) }
}
