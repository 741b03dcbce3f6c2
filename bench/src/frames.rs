//! Frames through a painter, from 8-bit pictures in memory to 8-bit pictures in memory.

use std::collections::VecDeque;
use std::time::Duration;

use livediffusion_pipeline::frame::{FrameMeta, PictureView, Size};
use livediffusion_pipeline::painter::Painter;
use livediffusion_pipeline::stats::Clock;
use livediffusion_pipeline::{Emitted, EngineError};

/// What a run of some frames took.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// Pictures that left.
    pub pictures: usize,
    /// From the first frame in to the last picture out.
    pub wall: Duration,
    /// Time from picture to picture; pictures that leave together share theirs.
    pub intervals: Vec<Duration>,
    /// Time from a frame's entry to its picture: from 8-bit pixels to 8-bit pixels, with whatever it waits for on its way.
    pub delays: Vec<Duration>,
}

impl Run {
    /// Pictures a second.
    pub fn fps(&self) -> f64 {
        self.pictures as f64 / self.wall.as_secs_f64()
    }

    /// Copies the pictures that left, and notes when that was.
    fn take(
        &mut self,
        emitted: &Emitted<'_>,
        copy: &mut [u8],
        (entered, last): (&mut VecDeque<(u64, Duration)>, &mut Duration),
        clock: &dyn Clock,
    ) {
        emitted.iter().for_each(|picture| copy.copy_from_slice(picture.rgb));
        let (now, count) = (clock.now(), emitted.len());
        self.pictures += count;
        for picture in emitted.iter() {
            // In order; a frame that left without a picture is passed over.
            while let Some((id, at)) = entered.pop_front_if(|(id, _)| *id <= picture.meta.id) {
                if id == picture.meta.id {
                    self.delays.push(now.saturating_sub(at));
                }
            }
            self.intervals.push(now.saturating_sub(*last) / count as u32);
        }
        if count > 0 {
            *last = now;
        }
    }

    /// Mean time of a picture, in ms.
    pub fn ms(&self) -> f64 {
        1e3 / self.fps()
    }
}

/// Where frames come from.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// These pictures (packed RGB) in turn, from the start again after the last.
    Pictures(&'a [Vec<u8>]),
    /// Noise: txt2img.
    Noise,
}

/// A painter, and what it needs to run again and again.
pub struct Subject {
    painter: Painter,
    size: Size,
    next: u64,
    /// Where pictures are copied to: what a caller at least does with them.
    picture: Vec<u8>,
    /// Frames that have not left, and when they entered.
    entered: VecDeque<(u64, Duration)>,
}

impl Subject {
    /// Wraps a painter of pictures of `size`.
    pub fn new(painter: Painter, size: Size) -> Self {
        Self { painter, size, next: 0, picture: vec![0; 3 * size.pixels()], entered: VecDeque::new() }
    }

    /// The painter.
    pub fn painter(&self) -> &Painter {
        &self.painter
    }

    /// Takes `frames` frames in. One engine is measured in its steady state: its stream batch is full before and after.
    /// Lanes work on while nobody calls, so they are emptied at the end, and the time that this takes counts.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn run(&mut self, source: Source<'_>, frames: usize, clock: &dyn Clock) -> Result<Run, EngineError> {
        self.run_on(source, frames, clock, false)
    }

    /// The same with one frame at a time: none comes before all that the one before was given to have been waited for.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn run_alone(&mut self, source: Source<'_>, frames: usize, clock: &dyn Clock) -> Result<Run, EngineError> {
        self.run_on(source, frames, clock, true)
    }

    fn run_on(
        &mut self,
        source: Source<'_>,
        frames: usize,
        clock: &dyn Clock,
        is_alone: bool,
    ) -> Result<Run, EngineError> {
        let mut run =
            Run { intervals: Vec::with_capacity(frames), delays: Vec::with_capacity(frames), ..Run::default() };
        let started = clock.now();
        let mut last = started;
        for _ in 0..frames {
            let meta = FrameMeta { id: self.next, ..FrameMeta::default() };
            self.entered.push_back((meta.id, clock.now()));
            let emitted = match source {
                Source::Pictures(pictures) => {
                    let rgb = &pictures[self.next as usize % pictures.len()];
                    self.painter.step(meta, PictureView::packed(self.size, rgb))?
                }
                Source::Noise => self.painter.generate(meta)?,
            };
            self.next += 1;
            run.take(&emitted, &mut self.picture, (&mut self.entered, &mut last), clock);
            if is_alone {
                run.take(&self.painter.ready()?, &mut self.picture, (&mut self.entered, &mut last), clock);
            }
        }
        if matches!(self.painter, Painter::Lanes(_) | Painter::Device(_)) {
            // A device's stream batch stays full: its frames on their way are waited for.
            let is_device = matches!(self.painter, Painter::Device(_));
            let emitted = if is_device { self.painter.ready()? } else { self.painter.flush()? };
            run.take(&emitted, &mut self.picture, (&mut self.entered, &mut last), clock);
        }
        run.wall = clock.now().saturating_sub(started);
        Ok(run)
    }
}

/// Pictures without meaning but with structure, for measurements whose time does not depend on what they show.
pub fn patterns(size: Size) -> Vec<Vec<u8>> {
    let value = |frame: usize, at: usize| ((at * 7919 + at / 97 * 31 + frame * 4001) % 256) as u8;
    (0..4).map(|frame| (0..3 * size.pixels()).map(|at| value(frame, at)).collect()).collect()
}
