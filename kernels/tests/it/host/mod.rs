//! The kernels' source compiled by the C++ compiler, as something that launches.

#![allow(unsafe_code, reason = "a library made here is loaded and called")]

mod ptx;
mod queue;
pub(crate) mod software;

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

use libloading::Library;
use livediffusion_kernels::gpu::{GpuError, Kernel, Launch, Limits, Place, SOURCE, Shape};
use sha2::{Digest as _, Sha256};

type Entry = unsafe extern "C" fn(*const c_char, c_uint, c_uint, c_uint, *mut *mut c_void) -> c_int;

/// Alignment, bounds of arrays and conversions are checked while it runs: a trap ends the test.
const FLAGS: [&str; 11] = [
    "-std=c++17",
    "-O1",
    "-Wall",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-fPIC",
    "-shared",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-fsanitize=undefined,float-cast-overflow",
    "-fsanitize-undefined-trap-on-error",
];

/// The host in place of a card that has as much room as told.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    entry: Entry,
    limits: Limits,
}

impl Host {
    /// With room for a few blocks, so that kernels have to loop; `None`, and a line that says why, without a C++ compiler.
    pub(crate) fn new(multiprocessors: u32) -> Option<Self> {
        // Once, also where it fails: a property test would try again for each of its cases.
        static ENTRY: OnceLock<Result<Option<Entry>, String>> = OnceLock::new();
        let entry = ENTRY.get_or_init(|| {
            let Some(library) = build("host.cpp", "kernels.so")? else { return Ok(None) };
            // SAFETY: the library was built from the sources beside this file, and stays loaded.
            let library = unsafe { Library::new(library) }.map_err(|e| e.to_string())?;
            let library: &'static Library = Box::leak(Box::new(library));
            // SAFETY: host.cpp gives the function this signature.
            let entry = unsafe { library.get::<Entry>(b"livediffusion_launch\0") }.map_err(|e| e.to_string())?;
            Ok(Some(*entry))
        });
        let entry = entry.as_ref().unwrap_or_else(|error| panic!("{error}"));
        Some(Self { entry: (*entry)?, limits: Limits { multiprocessors, threads_per_multiprocessor: 512 } })
    }
}

impl Launch for Host {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn place(&self) -> Place {
        Place::Host
    }

    unsafe fn launch(&self, kernel: Kernel, shape: Shape, arguments: &mut [*mut c_void]) -> Result<(), GpuError> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let name = CString::new(kernel.name()).unwrap();
        let Shape { blocks, rows, threads } = shape;
        // SAFETY: the caller answers for the arguments; shim.h reads as many as the kernel has parameters.
        let status = unsafe { (self.entry)(name.as_ptr(), blocks, rows, threads, arguments.as_mut_ptr()) };
        assert_eq!(status, 0, "host.cpp has no {}", kernel.name());
        Ok(())
    }
}

/// Where tests of this build may write. Cargo does not tell those of a binary, which lie in `deps` of a folder beside it.
fn scratch() -> PathBuf {
    let told = option_env!("CARGO_TARGET_TMPDIR").map(PathBuf::from);
    told.unwrap_or_else(|| std::env::current_exe().unwrap().ancestors().nth(3).unwrap().join("tmp"))
}

/// Builds a library of one of the sources beside this file, once for each state of them all; `None`, and a line that says why,
/// without a C++ compiler.
pub(super) fn build(source: &str, library: &str) -> Result<Option<PathBuf>, String> {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut build = cc::Build::new();
    build.cpp(true).cargo_metadata(false).opt_level(1).host(&triple).target(&triple);
    let compiler = build.try_get_compiler().ok().filter(|tool| tool.to_command().arg("--version").output().is_ok());
    let Some(compiler) = compiler else {
        eprintln!("skipped: no C++ compiler (apt-get install g++)");
        return Ok(None);
    };
    // Also where another crate's tests take this file in.
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/tests/it/host");
    let read = |name: &str| std::fs::read_to_string(here.join(name)).unwrap();
    let mut hash = Sha256::new();
    for part in [SOURCE, &read("shim.h"), &read("host.cpp"), &read("driver.cpp"), &read("card.h"), &FLAGS.join(" ")] {
        hash.update(part);
    }
    let name = hash.finalize().iter().take(8).fold(String::new(), |name, byte| name + &format!("{byte:02x}"));
    let folder = scratch().join(format!("kernels-{name}"));
    let library = folder.join(library);
    std::fs::create_dir_all(&folder).unwrap();
    // Tests are processes of their own: one builds, the others wait.
    let lock = File::create(folder.join("lock")).unwrap();
    lock.lock().unwrap();
    if !library.exists() {
        std::fs::write(folder.join("kernels.cu"), SOURCE).unwrap();
        let unfinished = folder.join("unfinished.so");
        let mut command = Command::new(compiler.path());
        command.args(FLAGS).arg("-I").arg(&folder).arg("-I").arg(&here).arg(here.join(source));
        let output = command.arg("-o").arg(&unfinished).output().unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        std::fs::rename(unfinished, &library).unwrap();
    }
    Ok(Some(library))
}
