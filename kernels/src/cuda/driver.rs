//! The driver, and the guard before every call of it.

use std::sync::OnceLock;

use cudarc::driver::{DriverError, result, sys};

use crate::gpu::{GpuError, GpuErrorKind};

/// The CUDA that a driver has to speak at least: 12.0, driver 525. Its entry points are those that this program asks for.
const OLDEST: i32 = 12_000;

/// The NVIDIA driver is here, it was asked for its version, and it was initialised.
#[derive(Clone, Copy, Debug)]
pub struct Driver {
    version: i32,
    devices: usize,
}

impl Driver {
    /// Looks for the driver and for cards. Looks once: what was found stays.
    pub fn find() -> Result<Self, GpuError> {
        static FOUND: OnceLock<Result<Driver, GpuError>> = OnceLock::new();
        FOUND.get_or_init(Self::look).clone()
    }

    #[allow(unsafe_code, reason = "the driver's C interface")]
    fn look() -> Result<Self, GpuError> {
        // SAFETY: loads libcuda, whose initialisers are the driver's own, and lets go of it.
        if !unsafe { sys::is_culib_present() } {
            let hint = "install the NVIDIA driver, or use --provider auto";
            return Err(GpuError::missing("there is no NVIDIA driver (libcuda.so.1) on this machine", hint));
        }
        let mut version = 0;
        // SAFETY: the library is there, and the pointer is to a live integer.
        unsafe { sys::cuDriverGetVersion(&raw mut version) }
            .result()
            .map_err(|e| error("asking for its version", e))?;
        if version < OLDEST {
            let what = format!("the NVIDIA driver speaks CUDA {}, which is too old", dotted(version));
            return Err(GpuError::missing(what, "update the driver to 525 or newer"));
        }
        result::init().map_err(|e| error("starting", e))?;
        let devices = result::device::get_count().map_err(|e| error("counting cards", e))?;
        if devices == 0 {
            return Err(GpuError::missing("the NVIDIA driver sees no card", "see `nvidia-smi`"));
        }
        Ok(Self { version, devices: devices as usize })
    }

    /// The newest CUDA that it speaks, as 1000 · major + 10 · minor.
    pub fn version(self) -> i32 {
        self.version
    }

    /// Cards that it sees.
    pub fn devices(self) -> usize {
        self.devices
    }
}

/// A CUDA version as [`Driver::version`] has it, for people: `12080` as `12.8`.
pub fn dotted(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// The driver's error as ours.
pub(crate) fn error(doing: &str, error: DriverError) -> GpuError {
    use sys::cudaError_enum as Code;
    let name = format!("{:?}", error.0);
    match error.0 {
        Code::CUDA_ERROR_OUT_OF_MEMORY => {
            GpuError::new(GpuErrorKind::OutOfMemory, format!("CUDA: {doing}: the card's memory is full"))
        }
        Code::CUDA_ERROR_NO_DEVICE => GpuError::missing(format!("CUDA: {doing}: no card"), "see `nvidia-smi`"),
        Code::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => GpuError::missing(
            format!("CUDA: {doing}: the driver's library does not fit its kernel module"),
            "restart the machine after an update of the driver",
        ),
        Code::CUDA_ERROR_UNSUPPORTED_PTX_VERSION | Code::CUDA_ERROR_NO_BINARY_FOR_GPU => GpuError::missing(
            format!("CUDA: {doing}: {name}: NVRTC is newer than the driver"),
            "update the driver, or give an older NVRTC by --cuda-lib-dir",
        ),
        _ => GpuError::new(GpuErrorKind::Failed, format!("CUDA: {doing}: {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_card_comes_with_a_hint() {
        let full = error("allocating", DriverError(sys::cudaError_enum::CUDA_ERROR_OUT_OF_MEMORY));
        assert_eq!(full.kind, GpuErrorKind::OutOfMemory);
        let hint = full.hint.unwrap();
        assert!(hint.contains("--size") && hint.contains("f16") && hint.contains("TAESD"), "{hint}");
        let other = error("launching", DriverError(sys::cudaError_enum::CUDA_ERROR_LAUNCH_FAILED));
        assert_eq!((other.kind, other.hint), (GpuErrorKind::Failed, None));
        assert_eq!(dotted(12_080), "12.8");
    }

    #[test]
    fn without_a_driver_it_says_so_and_does_not_panic() {
        match Driver::find() {
            Ok(driver) => assert!(driver.devices() > 0 && driver.version() >= OLDEST),
            Err(error) => {
                assert_eq!(error.kind, GpuErrorKind::Missing, "{error}");
                assert!(error.hint.is_some());
            }
        }
    }
}
