//! A machine for PTX: what NVRTC makes of the kernels, run on the host instruction by instruction.
//!
//! The same source compiled by a C++ compiler (shim.h) says nothing of NVRTC's code, nor of the instructions that are written out in
//! it. This runs that code, in the place of the kernels of the card in software, and looks at every access: outside of the card's
//! memory, not aligned, not written before, at once with another thread's, or not behind it by a barrier or by fences; and at barriers
//! that some threads of a block never reach. The crate that does part of it, `ptoxide`, knows no atomic operations, vectors or 16-bit
//! floats, looks at no access, and is left as it was in 2023.

mod launch;
mod operations;
mod program;
mod sharing;

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::io::Write as _;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use libloading::Library;

use launch::{Grid, Launch};
use program::Function;

/// Names a file for a line of each kernel that was run.
pub(crate) const RAN: &str = "LIVEDIFFUSION_TEST_RAN";

/// As driver.cpp has it.
#[repr(C)]
struct Machine {
    parameters: extern "C" fn(*const c_char, *mut usize, usize) -> usize,
    run: extern "C" fn(*const c_char, c_uint, c_uint, c_uint, *mut *mut c_void, *const [u64; 2], usize) -> c_int,
}

static MACHINE: Machine = Machine { parameters, run };
static FUNCTIONS: OnceLock<HashMap<String, Function>> = OnceLock::new();

/// Has the card in software of this process run these kernels, which it is given as an image next.
///
/// # Panics
/// If the text is more than this machine knows, or the driver is not the card in software.
pub(super) fn install(driver: &str, text: &str) {
    FUNCTIONS.get_or_init(|| program::parse(text).unwrap_or_else(|what| panic!("{what}")));
    // SAFETY: it is loaded already; driver.cpp gives the function this signature, and the machine is there for ever.
    unsafe {
        let driver = Library::new(driver).unwrap();
        let set = driver.get::<unsafe extern "C" fn(*const Machine)>(b"livediffusion_card_machine\0").unwrap();
        set(&raw const MACHINE);
    }
}

/// What this machine does not know of a text.
pub(super) fn check(text: &str) -> Result<(), String> {
    program::parse(text).map(drop)
}

fn function(name: *const c_char) -> Option<(&'static str, &'static Function)> {
    // SAFETY: driver.cpp passes names that end with a zero.
    let name = unsafe { CStr::from_ptr(name) }.to_str().ok()?;
    FUNCTIONS.get()?.get_key_value(name).map(|(name, function)| (name.as_str(), function))
}

/// Sizes of a kernel's parameters, and how many there are; none where there is no such kernel.
extern "C" fn parameters(name: *const c_char, sizes: *mut usize, room: usize) -> usize {
    let Some((_, function)) = function(name) else { return 0 };
    for (at, (_, size)) in function.parameters.iter().enumerate().take(room) {
        // SAFETY: driver.cpp has room for that many.
        unsafe { sizes.add(at).write(*size) };
    }
    function.parameters.len()
}

/// Runs a kernel over the card's memory; not 0, and a line that says why, if anything is wrong with it.
extern "C" fn run(
    name: *const c_char,
    blocks: c_uint,
    rows: c_uint,
    threads: c_uint,
    arguments: *mut *mut c_void,
    memory: *const [u64; 2],
    pieces: usize,
) -> c_int {
    // Every launch has an order of its own, and the same in every run of a test.
    static LAUNCHES: AtomicU64 = AtomicU64::new(1);
    let Some((name, function)) = function(name) else { return 1 };
    let length = function.parameters.last().map_or(0, |(offset, size)| offset + size);
    let mut parameters = vec![0_u8; length];
    for (at, (offset, size)) in function.parameters.iter().enumerate() {
        // SAFETY: driver.cpp passes a pointer to each parameter, of the sizes that `parameters` told it.
        unsafe {
            let from = (*arguments.add(at)).cast::<u8>();
            parameters[*offset..offset + size].copy_from_slice(std::slice::from_raw_parts(from, *size));
        }
    }
    // SAFETY: driver.cpp passes that many pieces, each a start and a length.
    let memory = unsafe { std::slice::from_raw_parts(memory, pieces) };
    let memory: Vec<Range<u64>> = memory.iter().map(|[start, length]| *start..start + length).collect();
    let seed = LAUNCHES.fetch_add(1, Ordering::Relaxed);
    note(name);
    match Launch::new(function, Grid { blocks, rows, threads }, parameters, &memory, seed).run() {
        Ok(()) => 0,
        Err(what) => {
            eprintln!("{name}: {what}");
            1
        }
    }
}

/// Leaves a line of each kernel for whoever started this test.
fn note(name: &str) {
    if let Some(path) = std::env::var_os(RAN) {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        writeln!(file, "{name}").unwrap();
    }
}
