//! Who touched each byte last, and whether whoever touches it now is ordered behind: what would race on a card.
//!
//! Ordered are, of one block, what a barrier lies between, and of two blocks what a fence and an atomic operation of the one and an
//! atomic operation on the same place and a fence of the other lie between (PTX ISA 8.8, chapter 8: release and acquire patterns, and
//! barriers, which carry them to the threads of a block). Threads run one instruction after the other here, so that values are those
//! of one of the orders that a card may choose; this finds the others.

/// When and by whom something was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) thread: u32,
    /// Barriers that its block had passed.
    pub(super) epoch: u32,
    /// Fences that the thread had passed.
    pub(super) fences: u32,
}

/// What somebody knows to be done, of each block.
#[derive(Clone, Debug, Default)]
pub(super) struct Known(Vec<(u32, Stamp)>);

impl Known {
    /// All of the block before the stamp, and what its thread did before its last fence.
    pub(super) fn learn(&mut self, block: u32, stamp: Stamp) {
        match self.0.iter_mut().find(|(known, _)| *known == block) {
            Some((_, known)) if (stamp.epoch, stamp.fences) > (known.epoch, known.fences) => *known = stamp,
            Some(_) => {}
            None => self.0.push((block, stamp)),
        }
    }

    pub(super) fn join(&mut self, other: &Self) {
        for (block, stamp) in &other.0 {
            self.learn(*block, *stamp);
        }
    }

    fn covers(&self, block: u32, done: Stamp) -> bool {
        let by_fence =
            |stamp: &Stamp| done.thread == stamp.thread && done.epoch == stamp.epoch && done.fences < stamp.fences;
        self.covers_epoch(block, done.epoch) || self.0.iter().any(|(known, stamp)| *known == block && by_fence(stamp))
    }

    fn covers_epoch(&self, block: u32, epoch: u32) -> bool {
        self.0.iter().any(|(known, stamp)| *known == block && epoch < stamp.epoch)
    }
}

/// Whoever touches memory.
#[derive(Clone, Copy)]
pub(super) struct Toucher<'a> {
    pub(super) stamp: Stamp,
    pub(super) threads_of_block: u32,
    /// What the block and the thread know of others.
    pub(super) known: [&'a Known; 2],
}

impl Toucher<'_> {
    /// Whether this comes after what was done, in every order that a card may choose.
    fn is_after(&self, done: Stamp) -> bool {
        done.thread == self.stamp.thread || self.is_after_barrier(done) || {
            self.known.iter().any(|known| known.covers(self.block_of(done), done))
        }
    }

    /// Whether a barrier lies behind what was done, and with it behind the same by all threads of that block.
    fn is_after_barrier(&self, done: Stamp) -> bool {
        let block = self.block_of(done);
        if block == self.block_of(self.stamp) {
            return done.epoch < self.stamp.epoch;
        }
        self.known.iter().any(|known| known.covers_epoch(block, done.epoch))
    }

    fn block_of(&self, stamp: Stamp) -> u32 {
        stamp.thread / self.threads_of_block
    }
}

/// How memory is touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Touch {
    Read,
    /// Through a cache that is not told of writes.
    ReadConstant,
    Write,
    /// What is there already: whoever else writes it writes the same.
    WriteSame,
    Atomic,
}

/// A packed stamp has 32 bits of the thread, 16 of the epoch, 8 of the fences, and these.
const IS_SET: u64 = 1 << 63;
/// Of a write.
const IS_ATOMIC: u64 = 1 << 62;
/// Of a read: by several threads that are not ordered among themselves, in the same epoch if they are of one block.
const BY_SEVERAL: u64 = 1 << 61;
const BY_BLOCKS: u64 = 1 << 60;
/// Of a read: through the constant cache, at any time.
const IS_CONSTANT: u64 = 1 << 59;

fn pack(stamp: Stamp) -> u64 {
    IS_SET | u64::from(stamp.thread) | u64::from(stamp.epoch & 0xffff) << 32 | u64::from(stamp.fences & 0xff) << 48
}

fn unpack(word: u64) -> Option<Stamp> {
    let stamp = Stamp { thread: word as u32, epoch: (word >> 32) as u32 & 0xffff, fences: (word >> 48) as u32 & 0xff };
    (word & IS_SET != 0).then_some(stamp)
}

/// The last write and the last read of each byte of a piece of memory.
#[derive(Debug, Default)]
pub(super) struct Shadow(Vec<[u64; 2]>);

impl Shadow {
    pub(super) fn of(bytes: usize) -> Self {
        // Zeros, which the system gives page by page as they are touched.
        Self(vec![[0; 2]; bytes])
    }

    pub(super) fn is_written(&self, at: usize) -> bool {
        self.0[at][0] & IS_SET != 0
    }

    /// Notes that a byte is touched, or says with what that is in conflict.
    pub(super) fn touch(&mut self, at: usize, touch: Touch, by: &Toucher<'_>) -> Result<(), String> {
        let [write, read] = &mut self.0[at];
        let conflict = |what: &str, other: Stamp| {
            Err(format!("{what}thread {} of block {}", other.thread % by.threads_of_block, by.block_of(other)))
        };
        let is_read = matches!(touch, Touch::Read | Touch::ReadConstant);
        let is_constant = *read & IS_CONSTANT != 0 || touch == Touch::ReadConstant;
        if let Some(writer) = unpack(*write) {
            let together = touch == Touch::WriteSame || (touch == Touch::Atomic && *write & IS_ATOMIC != 0);
            if is_constant {
                return conflict("read as constant, and written by ", writer);
            }
            if !together && !by.is_after(writer) {
                return conflict(
                    if is_read { "read while it is written by " } else { "written at once with " },
                    writer,
                );
            }
        }
        let mut several = 0;
        if let Some(reader) = unpack(*read) {
            let is_after = match (*read & BY_BLOCKS != 0, *read & BY_SEVERAL != 0) {
                (true, _) => false,
                (_, true) => by.is_after_barrier(reader),
                _ => by.is_after(reader),
            };
            if !is_read && (is_constant || !is_after) {
                let several = if *read & BY_SEVERAL == 0 { "" } else { "several, the last of them " };
                return conflict(&format!("written while it is read by {several}"), reader);
            }
            if !is_after {
                let other_block = by.block_of(reader) != by.block_of(by.stamp);
                several = BY_SEVERAL | (*read & BY_BLOCKS) | if other_block { BY_BLOCKS } else { 0 };
            }
        }
        // Whoever comes after a write comes after what that came after.
        *read = if is_read { pack(by.stamp) | several | if is_constant { IS_CONSTANT } else { 0 } } else { 0 };
        match touch {
            Touch::Read | Touch::ReadConstant => {}
            Touch::Write | Touch::WriteSame => *write = pack(by.stamp),
            // Whoever sees its value knows it to be done: as if it lay before the thread's last fence.
            Touch::Atomic => {
                let fences = by.stamp.fences.saturating_sub(1);
                *write = pack(Stamp { fences, ..by.stamp }) | IS_ATOMIC;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Threads of two blocks of four.
    fn touch(shadow: &mut Shadow, touch: Touch, thread: u32, epoch: u32, known: &Known) -> Result<(), String> {
        let none = Known::default();
        let stamp = Stamp { thread, epoch, fences: 0 };
        shadow.touch(0, touch, &Toucher { stamp, threads_of_block: 4, known: [known, &none] })
    }

    #[test]
    fn a_barrier_orders_the_threads_of_a_block_and_no_others() {
        let none = Known::default();
        let mut shadow = Shadow::of(1);
        touch(&mut shadow, Touch::Write, 0, 0, &none).unwrap();
        assert!(touch(&mut shadow, Touch::Read, 1, 0, &none).unwrap_err().contains("written by thread 0 of block 0"));
        touch(&mut shadow, Touch::Read, 1, 1, &none).unwrap();
        touch(&mut shadow, Touch::Read, 2, 1, &none).unwrap();
        assert!(touch(&mut shadow, Touch::Write, 2, 1, &none).unwrap_err().contains("read by several"));
        touch(&mut shadow, Touch::Write, 2, 2, &none).unwrap();
        assert!(touch(&mut shadow, Touch::Read, 5, 9, &none).unwrap_err().contains("written by thread 2"));
        assert!(touch(&mut shadow, Touch::Write, 5, 9, &none).is_err());
        // The same by both is what either would leave.
        touch(&mut shadow, Touch::WriteSame, 5, 9, &none).unwrap();
    }

    #[test]
    fn what_another_block_has_told_of_is_done() {
        let mut shadow = Shadow::of(1);
        touch(&mut shadow, Touch::Write, 1, 0, &Known::default()).unwrap();
        let mut known = Known::default();
        // Of another thread of that block, without a barrier between the two.
        known.learn(0, Stamp { thread: 0, epoch: 0, fences: 1 });
        assert!(touch(&mut shadow, Touch::Read, 6, 0, &known).is_err());
        known.learn(0, Stamp { thread: 0, epoch: 1, fences: 1 });
        touch(&mut shadow, Touch::Read, 6, 0, &known).unwrap();
    }

    #[test]
    fn what_is_read_as_constant_is_never_written() {
        let none = Known::default();
        let mut shadow = Shadow::of(1);
        touch(&mut shadow, Touch::ReadConstant, 0, 0, &none).unwrap();
        touch(&mut shadow, Touch::Read, 0, 0, &none).unwrap();
        assert!(touch(&mut shadow, Touch::Write, 0, 0, &none).is_err());
        let mut shadow = Shadow::of(1);
        touch(&mut shadow, Touch::Write, 0, 0, &none).unwrap();
        assert!(touch(&mut shadow, Touch::ReadConstant, 0, 1, &none).is_err());
    }
}
