//! All who watch one stream.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use gst::prelude::*;
use livediffusion_pipeline::frame::Size;

use super::Viewer;
use crate::error::IoError;
use crate::{launch, lock};

/// Viewers by name, and the pictures that go to them.
#[derive(Default)]
pub struct Audience {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `None` keeps a place for one who is about to come.
    viewers: BTreeMap<String, Option<Arc<Viewer>>>,
    format: Option<Format>,
}

/// Where pictures of one size are put.
struct Format {
    size: Size,
    info: gst_video::VideoInfo,
    caps: gst::Caps,
    pool: gst::BufferPool,
}

impl Audience {
    /// Keeps a place for a viewer called `name`, if there are fewer than `most`.
    pub fn reserve(&self, name: &str, most: usize) -> bool {
        let mut state = lock(&self.state);
        let is_free = state.viewers.len() < most && !state.viewers.contains_key(name);
        if is_free {
            state.viewers.insert(name.to_owned(), None);
        }
        is_free
    }

    /// The viewer for whom a place was kept is there. He is not taken if the place is gone.
    pub fn enter(&self, name: &str, viewer: &Arc<Viewer>) {
        if let Some(place) = lock(&self.state).viewers.get_mut(name) {
            *place = Some(Arc::clone(viewer));
        }
    }

    /// A viewer goes, or his place is not wanted. Whether there was one of that name.
    pub fn leave(&self, name: &str) -> bool {
        // What is dropped here may take a moment: not under the lock.
        let left = lock(&self.state).viewers.remove(name);
        left.is_some()
    }

    /// Whether a viewer of that name has a place.
    pub fn has(&self, name: &str) -> bool {
        lock(&self.state).viewers.contains_key(name)
    }

    /// How many places are taken.
    pub fn len(&self) -> usize {
        lock(&self.state).viewers.len()
    }

    /// Whether nobody watches.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Shows all of them a picture: `rgb` is interleaved, without gaps between rows. Waits for nobody.
    pub fn show(&self, rgb: &[u8], size: Size) -> Result<(), IoError> {
        let mut state = lock(&self.state);
        if state.viewers.values().all(Option::is_none) {
            return Ok(());
        }
        if state.format.as_ref().is_none_or(|format| format.size != size) {
            state.format = Some(Format::new(size)?);
        }
        let State { viewers, format: Some(format) } = &*state else { return Ok(()) };
        let picture = format.sample(rgb)?;
        for viewer in viewers.values().flatten() {
            viewer.show(&picture);
        }
        Ok(())
    }
}

impl Format {
    fn new(size: Size) -> Result<Self, IoError> {
        let failed = |e: &dyn std::fmt::Display| launch::failed("the viewers", e);
        let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::Rgb, size.width as u32, size.height as u32);
        let info = info.fps(gst::Fraction::new(0, 1)).build().map_err(|e| failed(&e))?;
        let caps = info.to_caps().map_err(|e| failed(&e))?;
        let pool = gst::BufferPool::new();
        let mut config = pool.config();
        // No upper bound here: what is in use is bounded by the viewers' own queues.
        config.set_params(Some(&caps), info.size() as u32, 2, 0);
        pool.set_config(config).map_err(|e| failed(&e))?;
        pool.set_active(true).map_err(|e| failed(&e))?;
        Ok(Self { size, info, caps, pool })
    }

    /// The picture with its format, in memory from the pool.
    fn sample(&self, rgb: &[u8]) -> Result<gst::Sample, IoError> {
        let failed = |e: &dyn std::fmt::Display| launch::failed("the viewers", e);
        let row = 3 * self.size.width;
        if rgb.len() != row * self.size.height {
            return Err(IoError::WrongSize { expected: self.size, got: rgb.len() });
        }
        let mut buffer = self.pool.acquire_buffer(None).map_err(|e| failed(&e))?;
        let stride = self.info.stride().first().copied().unwrap_or_default() as usize;
        let mut map = buffer.make_mut().map_writable().map_err(|e| failed(&e))?;
        for (to, from) in map.chunks_mut(stride.max(row)).zip(rgb.chunks_exact(row)) {
            to[..row].copy_from_slice(from);
        }
        drop(map);
        Ok(gst::Sample::builder().buffer(&buffer).caps(&self.caps).build())
    }
}

impl Drop for Format {
    fn drop(&mut self) {
        // Fails only if it was never active.
        let _ = self.pool.set_active(false);
    }
}
