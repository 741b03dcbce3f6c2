//! NVRTC, the compiler as a library.
//!
//! Bound here and not by `cudarc`, which loads it by its name alone: a library in pip's folders, or where `--cuda-lib-dir` says,
//! would need `LD_LIBRARY_PATH`, and one of another major version than it was built for would not be found.

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::ptr;

use libloading::Library;

use crate::gpu::{GpuError, GpuErrorKind};

/// nvrtcProgram.
type Program = *mut std::ffi::c_void;
/// A size, and then that many bytes.
type AskSize = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type AskBytes = unsafe extern "C" fn(Program, *mut c_char) -> c_int;

/// The loaded library. Its functions may be called from any thread.
#[derive(Debug)]
pub struct Nvrtc {
    library: Library,
    /// What it loads by name when it compiles, and not all of its versions find beside themselves (13.0 of pip's does not).
    #[allow(dead_code, reason = "kept loaded")]
    builtins: Option<Library>,
    path: PathBuf,
    version: (u32, u32),
    architectures: Vec<u32>,
}

/// What a compilation gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Text, with a zero at its end.
    Ptx,
    /// Machine code.
    Cubin,
}

impl Nvrtc {
    /// Loads it from a file, or by a name from the system.
    #[allow(unsafe_code, reason = "NVRTC's C interface")]
    pub fn load(path: &Path) -> Result<Self, GpuError> {
        let failed = |what: String| {
            let hint = "install it by `pip install nvidia-cuda-nvrtc-cu12`, or name its folder by --cuda-lib-dir";
            GpuError::missing(format!("NVRTC from {}: {what}", path.display()), hint)
        };
        // SAFETY: loading runs the library's initialisers; it is the one that the user or the system names as NVRTC.
        let library = unsafe { Library::new(path) }.map_err(|e| failed(reason(&e)))?;
        let mut nvrtc =
            Self { library, builtins: None, path: path.to_owned(), version: (0, 0), architectures: Vec::new() };
        let (mut major, mut minor, mut count) = (0, 0, 0);
        nvrtc
            .call::<unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int>(c"nvrtcVersion", |version| {
                // SAFETY: the signature is NVRTC's, and the pointers are to live integers.
                unsafe { version(&raw mut major, &raw mut minor) }
            })
            .map_err(|e| failed(e.what))?;
        nvrtc
            .call::<unsafe extern "C" fn(*mut c_int) -> c_int>(c"nvrtcGetNumSupportedArchs", |number| {
                // SAFETY: as above.
                unsafe { number(&raw mut count) }
            })
            .map_err(|e| failed(e.what))?;
        let mut architectures: Vec<c_int> = vec![0; usize::try_from(count).unwrap_or(0)];
        nvrtc
            .call::<unsafe extern "C" fn(*mut c_int) -> c_int>(c"nvrtcGetSupportedArchs", |all| {
                // SAFETY: as above; there is room for as many as it said.
                unsafe { all(architectures.as_mut_ptr()) }
            })
            .map_err(|e| failed(e.what))?;
        nvrtc.version = (major as u32, minor as u32);
        let builtins = path.with_file_name(format!("libnvrtc-builtins.so.{major}.{minor}"));
        if builtins.is_file() {
            // SAFETY: as that of NVRTC, whose part it is.
            nvrtc.builtins = Some(unsafe { Library::new(builtins) }.map_err(|e| failed(reason(&e)))?);
        }
        nvrtc.architectures = architectures.into_iter().map(|a| a as u32).collect();
        Ok(nvrtc)
    }

    /// Where it was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Major and minor version.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// Compute capabilities that it compiles for, as 10 · major + minor.
    pub fn architectures(&self) -> &[u32] {
        &self.architectures
    }

    /// Compiles one source file.
    #[allow(unsafe_code, reason = "NVRTC's C interface")]
    pub(crate) fn compile(&self, source: &str, options: &[String], output: Output) -> Result<Vec<u8>, GpuError> {
        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> c_int;
        type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
        let text = |text: &str| CString::new(text).map_err(|_| GpuError::misuse("a zero in the kernels' source"));
        let source = text(source)?;
        let options = options.iter().map(|option| text(option)).collect::<Result<Vec<_>, _>>()?;
        let pointers: Vec<_> = options.iter().map(|option| option.as_ptr()).collect();
        let mut program: Program = ptr::null_mut();
        self.call::<Create>(c"nvrtcCreateProgram", |create| {
            let name = c"livediffusion.cu".as_ptr();
            // SAFETY: the strings end in zeros and outlive the program; no headers are given.
            unsafe { create(&raw mut program, source.as_ptr(), name, 0, ptr::null(), ptr::null()) }
        })?;
        let program = Guard { nvrtc: self, program };
        let compiled = self.call::<Compile>(c"nvrtcCompileProgram", |compile| {
            // SAFETY: the program was made above; there are as many options as told.
            unsafe { compile(program.program, pointers.len() as c_int, pointers.as_ptr()) }
        });
        if let Err(error) = compiled {
            let log = self.bytes(&program, c"nvrtcGetProgramLogSize", c"nvrtcGetProgramLog").unwrap_or_default();
            let log = String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned();
            return Err(GpuError { what: format!("{}: {log}", error.what), ..error });
        }
        match output {
            Output::Ptx => self.bytes(&program, c"nvrtcGetPTXSize", c"nvrtcGetPTX"),
            Output::Cubin => self.bytes(&program, c"nvrtcGetCUBINSize", c"nvrtcGetCUBIN"),
        }
    }

    #[allow(unsafe_code, reason = "NVRTC's C interface")]
    fn bytes(&self, program: &Guard<'_>, size: &CStr, read: &CStr) -> Result<Vec<u8>, GpuError> {
        let mut count = 0;
        // SAFETY: the signature is NVRTC's, the program is alive.
        self.call::<AskSize>(size, |ask| unsafe { ask(program.program, &raw mut count) })?;
        let mut bytes = vec![0u8; count];
        // SAFETY: as above; there is room for as many bytes as it said.
        self.call::<AskBytes>(read, |ask| unsafe { ask(program.program, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }

    /// Calls a function of the library, and makes its status an error. `F` has to be its signature.
    #[allow(unsafe_code, reason = "NVRTC's C interface")]
    fn call<F: Copy>(&self, name: &CStr, call: impl FnOnce(F) -> c_int) -> Result<(), GpuError> {
        let failed = |what: String| GpuError::new(GpuErrorKind::Failed, what);
        let shown = name.to_string_lossy();
        // SAFETY: the callers in this file name NVRTC's functions with their signatures, unchanged since CUDA 11.
        let function = unsafe { self.library.get::<F>(name.to_bytes_with_nul()) }
            .map_err(|e| failed(format!("{shown}: {}", reason(&e))))?;
        match call(*function) {
            0 => Ok(()),
            status => Err(failed(format!("{shown}: status {status}"))),
        }
    }
}

/// Destroys a program.
struct Guard<'a> {
    nvrtc: &'a Nvrtc,
    program: Program,
}

impl Drop for Guard<'_> {
    #[allow(unsafe_code, reason = "NVRTC's C interface")]
    fn drop(&mut self) {
        let program = &raw mut self.program;
        let _ = self.nvrtc.call::<unsafe extern "C" fn(*mut Program) -> c_int>(c"nvrtcDestroyProgram", |destroy| {
            // SAFETY: the program is alive and is not used again.
            unsafe { destroy(program) }
        });
    }
}

/// The loader's own words.
fn reason(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}
