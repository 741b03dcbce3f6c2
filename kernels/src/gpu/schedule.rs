//! Upload of the next frame, work on this one and download of the last, at once on three streams, or on five.
//!
//! Frames take turns in a few sets of buffers. A set is encoded when it is uploaded, worked on when it is encoded, and so on: events
//! say so from stream to stream, and the host waits for finished pictures alone. Where encoder and decoder share the work's stream,
//! with u, c, d for upload, all the work and download, h for what the host does between a picture and the next frame, all of u, d,
//! h ≤ c, and n sets, work on the next frame begins when work on this one ends as soon as u + d + h ≤ (n − 1) · c. On streams of
//! their own, encoding of the next frame and decoding of the last are under it too.

/// What is put into which stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The frame to the card.
    Upload,
    /// The frame to its latent.
    Encode,
    /// From latent to latent.
    Work,
    /// The latent to the picture.
    Decode,
    /// The picture from the card.
    Download,
}

/// Number of stages.
pub const STAGES: usize = 5;

/// The streams of a card, one for each stage, an event for each stage of each set of buffers, and a way to wait. All but `finish`
/// return at once.
pub trait Streams {
    /// Why something was not done.
    type Error;

    /// What is put into the stream of `stream` from now on waits until that stage of a set, as put there last, is done. At once
    /// where it never was put.
    fn wait(&mut self, stream: Stage, until: (Stage, usize)) -> Result<(), Self::Error>;

    /// Puts a stage of a set into its stream, and its event behind it.
    fn put(&mut self, stage: Stage, set: usize) -> Result<(), Self::Error>;

    /// Makes the caller wait until a stage of a set, as put there last, is done.
    fn finish(&mut self, stage: Stage, set: usize) -> Result<(), Self::Error>;
}

/// Which set is whose turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    sets: usize,
    submitted: u64,
    collected: u64,
}

impl Schedule {
    /// Over `sets` sets of buffers: 1 overlaps nothing, 2 are enough where copies are short, 3 leave room for the host.
    ///
    /// # Panics
    /// If there are none.
    pub fn new(sets: usize) -> Self {
        assert!(sets > 0, "a schedule without buffers");
        Self { sets, submitted: 0, collected: 0 }
    }

    /// Frames on their way.
    pub fn in_flight(&self) -> usize {
        (self.submitted - self.collected) as usize
    }

    /// The set that the next frame has, vacant or not.
    pub fn next_in(&self) -> usize {
        self.set_of(self.submitted)
    }

    /// The set of the oldest picture on its way, or of the next frame if there is none.
    pub fn next_out(&self) -> usize {
        self.set_of(self.collected)
    }

    /// The set that the next frame is to be written into; `None` while all are on their way.
    pub fn vacant(&self) -> Option<usize> {
        (self.in_flight() < self.sets).then(|| self.set_of(self.submitted))
    }

    /// Sends the frame in the [`vacant`](Self::vacant) set on its way, or gives false if there is none.
    pub fn submit<S: Streams>(&mut self, streams: &mut S) -> Result<bool, S::Error> {
        let Some(set) = self.vacant() else {
            return Ok(false);
        };
        // Nobody else uses the set: its last picture was collected.
        streams.put(Stage::Upload, set)?;
        let chain = [Stage::Upload, Stage::Encode, Stage::Work, Stage::Decode, Stage::Download];
        for pair in chain.windows(2) {
            streams.wait(pair[1], (pair[0], set))?;
            streams.put(pair[1], set)?;
        }
        self.submitted += 1;
        Ok(true)
    }

    /// Waits for the oldest picture on its way and gives its set, which is vacant with the next call; `None` if there is none.
    pub fn collect<S: Streams>(&mut self, streams: &mut S) -> Result<Option<usize>, S::Error> {
        if self.in_flight() == 0 {
            return Ok(None);
        }
        let set = self.set_of(self.collected);
        streams.finish(Stage::Download, set)?;
        self.collected += 1;
        Ok(Some(set))
    }

    fn set_of(&self, frame: u64) -> usize {
        (frame % self.sets as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    /// A card whose time passes as told: each stream is free at some time, each event has one, and so has the host.
    struct Clock {
        now: u64,
        lasts: [u64; STAGES],
        /// The stream of each stage.
        streams: [usize; STAGES],
        free: [u64; STAGES],
        /// When the stage of each set, as put last, is done.
        done: Vec<[u64; STAGES]>,
        /// Begin and end of each stage of each set, as they happened.
        spans: Vec<(Stage, usize, u64, u64)>,
    }

    /// Encoder and decoder in the work's stream, and in streams of their own.
    const TOGETHER: [usize; STAGES] = [0, 1, 1, 1, 2];
    const APART: [usize; STAGES] = [0, 1, 2, 3, 4];

    impl Clock {
        fn new(sets: usize, lasts: [u64; STAGES], streams: [usize; STAGES]) -> Self {
            Self { now: 0, lasts, streams, free: [0; STAGES], done: vec![[0; STAGES]; sets], spans: Vec::new() }
        }

        fn of(&self, stage: Stage) -> Vec<(usize, u64, u64)> {
            let all = self.spans.iter().filter(|span| span.0 == stage);
            all.map(|&(_, set, from, to)| (set, from, to)).collect()
        }

        /// Idle times of the stream of `stage` between what it does for one frame and for the next.
        fn gaps(&self, stage: Stage) -> Vec<u64> {
            let stream = self.streams[stage as usize];
            let mut spans: Vec<_> = self.spans.iter().filter(|span| self.streams[span.0 as usize] == stream).collect();
            spans.sort_by_key(|span| span.2);
            spans.windows(2).map(|pair| pair[1].2 - pair[0].3).collect()
        }

        /// Time from the end of a frame's download to that of the next one's, the largest once all sets are in use.
        fn slowest(&self, sets: usize) -> u64 {
            let downloads = self.of(Stage::Download);
            downloads.windows(2).skip(2 * sets).map(|pair| pair[1].2 - pair[0].2).max().unwrap()
        }
    }

    impl Streams for Clock {
        type Error = Infallible;

        fn wait(&mut self, stream: Stage, (stage, set): (Stage, usize)) -> Result<(), Infallible> {
            let free = &mut self.free[self.streams[stream as usize]];
            *free = (*free).max(self.done[set][stage as usize]);
            Ok(())
        }

        fn put(&mut self, stage: Stage, set: usize) -> Result<(), Infallible> {
            let free = &mut self.free[self.streams[stage as usize]];
            let from = (*free).max(self.now);
            let to = from + self.lasts[stage as usize];
            *free = to;
            self.done[set][stage as usize] = to;
            self.spans.push((stage, set, from, to));
            Ok(())
        }

        fn finish(&mut self, stage: Stage, set: usize) -> Result<(), Infallible> {
            self.now = self.now.max(self.done[set][stage as usize]);
            Ok(())
        }
    }

    /// A file's frames: as many on their way as there are sets, and `host` passes between a picture and the next frame.
    fn run_on(streams: [usize; STAGES], sets: usize, lasts: [u64; STAGES], host: u64, frames: usize) -> Clock {
        let (mut clock, mut schedule) = (Clock::new(sets, lasts, streams), Schedule::new(sets));
        let mut next_out = 0;
        for _ in 0..frames {
            if schedule.vacant().is_none() {
                let Ok(set) = schedule.collect(&mut clock);
                assert_eq!(set, Some(next_out % sets), "pictures come out in the order of their frames");
                next_out += 1;
                clock.now += host;
            }
            assert_eq!(schedule.submit(&mut clock), Ok(true));
        }
        while let Ok(Some(_)) = schedule.collect(&mut clock) {
            next_out += 1;
        }
        assert_eq!((next_out, schedule.in_flight()), (frames, 0));
        clock
    }

    /// All work in one stream, of which it matters only how long it takes.
    fn run(sets: usize, [up, work, down]: [u64; 3], host: u64, frames: usize) -> Clock {
        let (encode, decode) = (work / 8, work / 4);
        run_on(TOGETHER, sets, [up, encode, work - encode - decode, decode, down], host, frames)
    }

    #[test]
    fn in_steady_state_the_work_has_no_gap() {
        // In µs: 512x512 over PCIe 4 takes 30 each way, a frame 8 ms; the host encodes for 5 ms.
        let clock = run(3, [30, 8_000, 30], 5_000, 50);
        assert!(clock.gaps(Stage::Work).iter().all(|gap| *gap == 0), "{:?}", clock.gaps(Stage::Work));
        // One set overlaps nothing: each frame waits for both copies and the host.
        let alone = run(1, [30, 8_000, 30], 5_000, 50).gaps(Stage::Work);
        assert!(alone.chunks_exact(3).all(|gaps| gaps == [0, 0, 5_060]), "{alone:?}");
        // Two sets leave no room for a slow host.
        assert!(run(2, [3_000, 8_000, 3_000], 5_000, 50).gaps(Stage::Work).iter().skip(2).any(|gap| *gap > 0));
    }

    #[test]
    fn on_streams_of_their_own_encoder_and_decoder_are_under_the_work() {
        // In µs: of 8 ms, the encoder takes 1 and the decoder 2. That all of it goes on at full speed at once is the best case.
        let lasts = [30, 1_000, 5_000, 2_000, 30];
        assert_eq!(run_on(TOGETHER, 3, lasts, 1_000, 50).slowest(3), 8_000);
        let apart = run_on(APART, 3, lasts, 1_000, 50);
        assert_eq!(apart.slowest(3), 5_000);
        assert!(apart.gaps(Stage::Work).iter().skip(3).all(|gap| *gap == 0), "{:?}", apart.gaps(Stage::Work));
    }

    #[test]
    fn nothing_is_taken_while_all_buffers_are_on_their_way() {
        let (mut clock, mut schedule) = (Clock::new(2, [1; STAGES], TOGETHER), Schedule::new(2));
        assert_eq!(schedule.collect(&mut clock), Ok(None));
        assert_eq!(schedule.submit(&mut clock), Ok(true));
        assert_eq!((schedule.vacant(), schedule.in_flight()), (Some(1), 1));
        assert_eq!(schedule.submit(&mut clock), Ok(true));
        assert_eq!((schedule.vacant(), schedule.submit(&mut clock)), (None, Ok(false)));
        assert_eq!(schedule.collect(&mut clock), Ok(Some(0)));
        assert_eq!(schedule.vacant(), Some(0));
    }

    proptest! {
        #[test]
        fn there_is_no_gap_when_the_others_fit_into_the_sets(
            (sets, work) in (2usize..6, 1u64..1000),
            (up, down, host) in (0.0f64..1.0, 0.0f64..1.0, 0.0f64..1.0),
        ) {
            let part = |share: f64| (share * work as f64) as u64;
            let (up, down, host) = (part(up), part(down), part(host));
            let clock = run(sets, [up, work, down], host, 60);
            if up + down + host <= (sets as u64 - 1) * work {
                prop_assert!(clock.gaps(Stage::Work).iter().skip(sets).all(|gap| *gap == 0), "{:?}", clock.gaps(Stage::Work));
            }
        }

        #[test]
        fn apart_the_longest_stage_has_no_gap_when_the_others_fit_into_the_sets(
            (sets, longest) in (2usize..6, 1u64..1000),
            (shares, host) in (proptest::array::uniform5(0.0f64..1.0), 0.0f64..1.0),
            which in 1usize..4,
        ) {
            let mut lasts = shares.map(|share| (share * longest as f64) as u64);
            lasts[which] = longest;
            let host = (host * longest as f64) as u64;
            let clock = run_on(APART, sets, lasts, host, 60);
            if lasts.iter().sum::<u64>() - longest + host <= (sets as u64 - 1) * longest {
                prop_assert_eq!(clock.slowest(sets), longest);
            }
        }

        #[test]
        fn no_buffer_is_written_while_it_is_read(
            sets in 1usize..5,
            lasts in proptest::array::uniform5(1u64..500),
            host in 0u64..500,
            apart in proptest::bool::ANY,
        ) {
            let clock = run_on(if apart { APART } else { TOGETHER }, sets, lasts, host, 40);
            let stages = [Stage::Upload, Stage::Encode, Stage::Work, Stage::Decode, Stage::Download].map(|stage| clock.of(stage));
            let [up, encode, _, decode, down] = &stages;
            for i in 0..40 {
                for pair in stages.windows(2) {
                    prop_assert!(pair[0][i].2 <= pair[1][i].1, "frame {i} overtakes itself");
                    prop_assert_eq!((pair[0][i].0, pair[1][i].0), (i % sets, i % sets));
                }
                if i >= sets {
                    prop_assert!(encode[i - sets].2 <= up[i].1, "frame {i} is uploaded over one that is read");
                    prop_assert!(down[i - sets].2 <= decode[i].1, "frame {i} is painted over one that is read");
                }
            }
        }
    }
}
