//! A launch: all threads of all blocks at once, in an order that chance decides instruction by instruction, and every access looked at.

use std::ops::Range;

use super::program::{Access, Does, Function, Operand, PARAMETERS, SHARED, Space, Special};
use super::sharing::{Known, Shadow, Stamp, Touch, Toucher};

/// Blocks along x and y, and threads of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    pub(super) blocks: u32,
    pub(super) rows: u32,
    pub(super) threads: u32,
}

struct Thread {
    at: usize,
    fences: u32,
    /// What atomic operations have told it of, of which it is sure behind its next fence.
    heard: Known,
    known: Known,
    /// What its last fence told of, for whoever sees an atomic operation of it behind that.
    released: Known,
}

struct Block {
    shared: Vec<u8>,
    shadow: Shadow,
    epoch: u32,
    /// Threads at the barrier, and threads that have returned.
    waiting: u32,
    done: u32,
    known: Known,
}

/// A piece of the card's memory, and who touched it in this launch.
struct Piece {
    bytes: Range<u64>,
    shadow: Option<Shadow>,
}

/// What became of a thread's turn.
enum Turn {
    Goes,
    Waits,
    Ends,
}

pub(super) struct Launch<'a> {
    function: &'a Function,
    grid: Grid,
    parameters: Vec<u8>,
    threads: Vec<Thread>,
    /// Of one thread behind those of the other.
    registers: Vec<u64>,
    blocks: Vec<Block>,
    pieces: Vec<Piece>,
    /// Who told of what through an atomic operation on which address.
    told: Vec<(u64, Known)>,
    random: u64,
}

impl<'a> Launch<'a> {
    /// `memory` is what the card has, in the order of addresses.
    pub(super) fn new(
        function: &'a Function,
        grid: Grid,
        parameters: Vec<u8>,
        memory: &[Range<u64>],
        seed: u64,
    ) -> Self {
        let blocks = grid.blocks * grid.rows;
        let thread = || Thread {
            at: 0,
            fences: 0,
            heard: Known::default(),
            known: Known::default(),
            released: Known::default(),
        };
        let block = || Block {
            shared: vec![0xa5; function.shared],
            shadow: Shadow::of(function.shared),
            epoch: 0,
            waiting: 0,
            done: 0,
            known: Known::default(),
        };
        let count = blocks * grid.threads;
        // Nobody may take them for zeros.
        let registers = vec![0xa5a5_a5a5_a5a5_a5a5; count as usize * function.registers];
        Self {
            function,
            grid,
            registers,
            parameters,
            threads: (0..count).map(|_| thread()).collect(),
            blocks: (0..blocks).map(|_| block()).collect(),
            pieces: memory.iter().map(|bytes| Piece { bytes: bytes.clone(), shadow: None }).collect(),
            told: Vec::new(),
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    /// Until all threads have returned; or what is wrong with one of them.
    pub(super) fn run(mut self) -> Result<(), String> {
        let mut ready: Vec<u32> = (0..self.threads.len() as u32).collect();
        while !ready.is_empty() {
            let chosen = self.chance(ready.len() as u64) as usize;
            // Now and then one instruction, now and then as far as it gets.
            let most = [1, 7, 60, 100_000][self.chance(4) as usize];
            let number = ready[chosen];
            let mut turn = Turn::Goes;
            for _ in 0..most {
                turn = self.step(number).map_err(|what| self.blame(number, &what))?;
                if !matches!(turn, Turn::Goes) {
                    break;
                }
            }
            if matches!(turn, Turn::Goes) {
                continue;
            }
            ready.swap_remove(chosen);
            self.meet(number, &turn, &mut ready).map_err(|what| self.blame(number, &what))?;
        }
        Ok(())
    }

    /// Lets the threads of a block on if all of them are at the barrier.
    fn meet(&mut self, number: u32, turn: &Turn, ready: &mut Vec<u32>) -> Result<(), String> {
        let index = number / self.grid.threads;
        let block = &mut self.blocks[index as usize];
        match turn {
            Turn::Waits => block.waiting += 1,
            _ => block.done += 1,
        }
        if block.waiting == 0 || block.waiting + block.done < self.grid.threads {
            return Ok(());
        }
        if block.done > 0 {
            return Err(format!(
                "{} threads of the block wait at a barrier, {} have returned",
                block.waiting, block.done
            ));
        }
        block.waiting = 0;
        block.epoch += 1;
        let all = index * self.grid.threads..(index + 1) * self.grid.threads;
        let where_ = self.threads[all.start as usize].at;
        for thread in &mut self.threads[all.start as usize..all.end as usize] {
            if thread.at != where_ {
                return Err("threads of the block wait at different barriers".to_owned());
            }
            block.known.join(&std::mem::take(&mut thread.known));
        }
        ready.extend(all);
        Ok(())
    }

    fn chance(&mut self, of: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 20) % of
    }

    fn blame(&self, number: u32, what: &str) -> String {
        // It stands behind the instruction if that is done.
        let at = self.threads[number as usize].at;
        let text = self.function.code.get(at).map_or("", |instruction| &instruction.text);
        let threads = self.grid.threads;
        format!("thread {} of block {}: {text}: {what}", number % threads, number / threads)
    }

    fn value(&self, number: u32, operand: Operand) -> u64 {
        let block = number / self.grid.threads;
        let special = match operand {
            Operand::Register(at) => return self.registers[self.register(number, at)],
            Operand::Value(value) => return value,
            Operand::Special(special) => special,
        };
        u64::from(match special {
            Special::Thread => number % self.grid.threads,
            Special::Threads => self.grid.threads,
            Special::BlockX => block % self.grid.blocks,
            Special::BlockY => block / self.grid.blocks,
            Special::BlocksX => self.grid.blocks,
            Special::BlocksY => self.grid.rows,
        })
    }

    fn register(&self, number: u32, register: usize) -> usize {
        number as usize * self.function.registers + register
    }

    fn set(&mut self, number: u32, register: usize, value: u64) {
        let at = self.register(number, register);
        self.registers[at] = value;
    }

    /// One instruction of a thread.
    fn step(&mut self, number: u32) -> Result<Turn, String> {
        let at = self.threads[number as usize].at;
        let function = self.function;
        let instruction = &function.code[at];
        if let Some((register, wanted)) = instruction.guard
            && (self.registers[self.register(number, register)] != 0) != wanted
        {
            self.threads[number as usize].at += 1;
            return Ok(Turn::Goes);
        }
        let mut next = at + 1;
        let mut turn = Turn::Goes;
        match &instruction.does {
            Does::Compute { function, to, from } => {
                let [a, b, c] = from.map(|operand| self.value(number, operand));
                self.set(number, *to, function(a, b, c));
            }
            Does::Pack { to, from, bits } => {
                let part = |(at, operand): (usize, &Operand)| self.value(number, *operand) << (at as u32 * bits);
                let all = from.iter().enumerate().map(part).fold(0, |all, part| all | part);
                self.set(number, *to, all);
            }
            Does::Unpack { to, from, bits } => {
                let all = self.value(number, *from);
                for (at, register) in to.iter().enumerate() {
                    self.set(number, *register, all >> (at as u32 * bits) & ((1 << bits) - 1));
                }
            }
            Does::Access(access) => self.access(number, access)?,
            Does::Add { to, base, offset, value } => {
                let address = self.value(number, *base).wrapping_add_signed(*offset);
                let value = self.value(number, *value) as u32;
                let old = self.add(number, address, value)?;
                self.set(number, *to, u64::from(old));
            }
            Does::Branch(to) => next = *to,
            Does::Fence => {
                let thread = &mut self.threads[number as usize];
                thread.fences += 1;
                let heard = std::mem::take(&mut thread.heard);
                thread.known.join(&heard);
                let (index, stamp) = (number / self.grid.threads, self.stamp(number));
                let thread = &mut self.threads[number as usize];
                thread.released.join(&self.blocks[index as usize].known);
                thread.released.join(&thread.known.clone());
                thread.released.learn(index, stamp);
            }
            Does::Barrier => turn = Turn::Waits,
            Does::Return => turn = Turn::Ends,
        }
        self.threads[number as usize].at = next;
        Ok(turn)
    }

    fn stamp(&self, number: u32) -> Stamp {
        let epoch = self.blocks[(number / self.grid.threads) as usize].epoch;
        Stamp { thread: number, epoch, fences: self.threads[number as usize].fences }
    }

    fn access(&mut self, number: u32, access: &Access) -> Result<(), String> {
        let address = self.value(number, access.base).wrapping_add_signed(access.offset);
        let bytes = access.size * access.values.len();
        if !address.is_multiple_of(bytes as u64) {
            return Err(format!("{address:#x} is not aligned to {bytes} bytes"));
        }
        let mut buffer = [0_u8; 16];
        let buffer = &mut buffer[..bytes];
        if access.is_store {
            for (part, operand) in buffer.chunks_exact_mut(access.size).zip(&access.values) {
                part.copy_from_slice(&self.value(number, *operand).to_le_bytes()[..access.size]);
            }
        }
        match access.space {
            Space::Parameters => {
                let start = address.wrapping_sub(PARAMETERS) as usize;
                let from = start.checked_add(bytes).and_then(|end| self.parameters.get(start..end));
                let from = from.filter(|_| !access.is_store).ok_or("outside of the parameters")?;
                buffer.copy_from_slice(from);
            }
            Space::Shared => self.shared(number, address, buffer, access.is_store)?,
            Space::Global => self.global(number, address, buffer, access)?,
        }
        if !access.is_store {
            for (part, operand) in buffer.chunks_exact(access.size).zip(&access.values) {
                let mut value = [0; 8];
                value[..access.size].copy_from_slice(part);
                let Operand::Register(to) = *operand else { return Err("loads into no register".to_owned()) };
                self.set(number, to, u64::from_le_bytes(value));
            }
        }
        Ok(())
    }

    fn shared(&mut self, number: u32, address: u64, buffer: &mut [u8], is_store: bool) -> Result<(), String> {
        let stamp = self.stamp(number);
        let block = &mut self.blocks[(number / self.grid.threads) as usize];
        let start = address.wrapping_sub(SHARED) as usize;
        let there = start.checked_add(buffer.len()).and_then(|end| block.shared.get_mut(start..end));
        let there = there.ok_or("outside of the shared memory")?;
        let none = Known::default();
        let by = Toucher { stamp, threads_of_block: self.grid.threads, known: [&none, &none] };
        for at in 0..buffer.len() {
            let touch = if !is_store {
                Touch::Read
            } else if block.shadow.is_written(start + at) && there[at] == buffer[at] {
                Touch::WriteSame
            } else {
                Touch::Write
            };
            if !is_store && !block.shadow.is_written(start + at) {
                return Err("reads shared memory that nobody wrote".to_owned());
            }
            block.shadow.touch(start + at, touch, &by)?;
        }
        if is_store {
            there.copy_from_slice(buffer);
        } else {
            buffer.copy_from_slice(there);
        }
        Ok(())
    }

    /// Notes that bytes of the card's memory are touched, each as `how` says.
    fn touch(&mut self, number: u32, address: u64, bytes: usize, how: impl Fn(usize) -> Touch) -> Result<(), String> {
        let stamp = self.stamp(number);
        let behind = self.pieces.partition_point(|piece| piece.bytes.start <= address);
        let piece = behind.checked_sub(1).map(|at| &mut self.pieces[at]);
        let piece = piece.filter(|piece| address + bytes as u64 <= piece.bytes.end);
        let piece = piece.ok_or_else(|| format!("{bytes} bytes at {address:#x}, which are not the card's"))?;
        let start = (address - piece.bytes.start) as usize;
        let length = (piece.bytes.end - piece.bytes.start) as usize;
        let shadow = piece.shadow.get_or_insert_with(|| Shadow::of(length));
        let known = [&self.blocks[(number / self.grid.threads) as usize].known, &self.threads[number as usize].known];
        let by = Toucher { stamp, threads_of_block: self.grid.threads, known };
        (0..bytes).try_for_each(|at| shadow.touch(start + at, how(at), &by))
    }

    fn global(&mut self, number: u32, address: u64, buffer: &mut [u8], access: &Access) -> Result<(), String> {
        let bytes = buffer.len();
        if !access.is_store {
            let touch = if access.is_constant { Touch::ReadConstant } else { Touch::Read };
            self.touch(number, address, bytes, |_| touch)?;
            // SAFETY: `touch` has found that many bytes of a piece of memory that the card has while this runs.
            buffer.copy_from_slice(unsafe { std::slice::from_raw_parts(address as *const u8, bytes) });
            return Ok(());
        }
        // Looked at only where the address is the card's.
        let is_there = self.pieces.iter().any(|piece| piece.bytes.contains(&address));
        let same = |at: usize| {
            // SAFETY: as above; called by `touch` once it has found them.
            is_there && unsafe { *(address as *const u8).add(at) } == buffer[at]
        };
        self.touch(number, address, bytes, |at| if same(at) { Touch::WriteSame } else { Touch::Write })?;
        // SAFETY: as above, and nobody else has a reference into the card's memory.
        unsafe { std::ptr::copy_nonoverlapping(buffer.as_ptr(), address as *mut u8, bytes) };
        Ok(())
    }

    /// atomicAdd: tells whoever does one on the same address what this thread knows to be done.
    fn add(&mut self, number: u32, address: u64, value: u32) -> Result<u32, String> {
        if !address.is_multiple_of(4) {
            return Err(format!("{address:#x} is not aligned to 4 bytes"));
        }
        self.touch(number, address, 4, |_| Touch::Atomic)?;
        let place = self.told.iter().position(|(place, _)| *place == address).unwrap_or_else(|| {
            self.told.push((address, Known::default()));
            self.told.len() - 1
        });
        let (told, thread) = (&mut self.told[place].1, &mut self.threads[number as usize]);
        thread.heard.join(told);
        told.join(&thread.released);
        let at = address as *mut u32;
        // SAFETY: `touch` has found these four bytes, aligned, in the card's memory.
        unsafe {
            let old = at.read();
            at.write(old.wrapping_add(value));
            Ok(old)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::program::parse;
    use super::*;

    /// Two blocks that each write a number and add to a ticket; the second to do so reads both.
    fn tell(fence: &str) -> Result<(), String> {
        let text = format!(
            ".visible .entry tell(
	.param .u64 tell_param_0
)
{{
	.reg .pred %p<2>;
	.reg .b32 %r<5>;
	.reg .b64 %rd<4>;
	ld.param.u64 %rd1, [tell_param_0];
	mov.u32 %r1, %ctaid.x;
	mul.wide.u32 %rd2, %r1, 8;
	add.s64 %rd3, %rd1, %rd2;
	st.global.u32 [%rd3+8], %r1;
	bar.sync 0;
	{fence}
	atom.global.add.u32 %r2, [%rd1], 1;
	membar.gl;
	setp.ne.s32 %p1, %r2, 1;
	@%p1 ret;
	ld.global.u32 %r3, [%rd1+8];
	ld.global.u32 %r4, [%rd1+16];
	ret;
}}"
        );
        let functions = parse(&text).unwrap();
        for seed in 1..50 {
            let mut memory = [0_u64; 3];
            let start = memory.as_mut_ptr() as u64;
            let grid = Grid { blocks: 2, rows: 1, threads: 1 };
            let piece = start..start + 24;
            Launch::new(&functions["tell"], grid, start.to_le_bytes().to_vec(), std::slice::from_ref(&piece), seed)
                .run()?;
        }
        Ok(())
    }

    #[test]
    fn who_sees_a_ticket_sees_what_lay_before_a_fence() {
        tell("membar.gl;").unwrap();
        // A barrier tells other blocks nothing.
        assert!(tell("").unwrap_err().contains("read while it is written by thread 0 of block"));
    }
}
