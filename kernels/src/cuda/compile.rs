//! From the kernels' source to what a card loads.

use std::fmt;

use cudarc::nvrtc::Ptx;

use crate::cuda::cache::ImageCache;
use crate::cuda::nvrtc::{Nvrtc, Output};
use crate::gpu::{GpuError, GpuErrorKind, OPTIONS, SOURCE};

/// What is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Machine code for exactly this compute capability (10 · major + minor).
    Cubin(u32),
    /// PTX, which the driver compiles further, for this capability and all later ones.
    Ptx(u32),
}

impl Target {
    /// For a card: machine code if this NVRTC knows the card, else PTX of the newest capability before it.
    pub fn for_card((major, minor): (u32, u32), nvrtc: &Nvrtc) -> Result<Self, GpuError> {
        Self::choose(10 * major + minor, nvrtc.architectures()).ok_or_else(|| {
            let what =
                format!("a card of compute capability {major}.{minor} is too old for {}", nvrtc.path().display());
            GpuError::missing(what, "give an older NVRTC by --cuda-lib-dir")
        })
    }

    fn choose(capability: u32, known: &[u32]) -> Option<Self> {
        if known.contains(&capability) {
            return Some(Self::Cubin(capability));
        }
        known.iter().copied().filter(|&known| known < capability).max().map(Self::Ptx)
    }

    fn option(self) -> String {
        match self {
            Self::Cubin(capability) => format!("--gpu-architecture=sm_{capability}"),
            Self::Ptx(capability) => format!("--gpu-architecture=compute_{capability}"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cubin(capability) => write!(f, "machine code for sm_{capability}"),
            Self::Ptx(capability) => write!(f, "PTX for compute_{capability}"),
        }
    }
}

/// The kernels, compiled.
#[derive(Clone, Debug)]
pub struct Image {
    bytes: Vec<u8>,
}

impl Image {
    /// The kernels for a card, from the cache or compiled anew: the key holds whatever decides what they are.
    pub fn cached(
        cache: Option<&ImageCache>,
        nvrtc: &Nvrtc,
        target: Target,
        driver_version: i32,
    ) -> Result<Self, GpuError> {
        let Some(cache) = cache else {
            return compile(nvrtc, target);
        };
        let key = ImageCache::key(&[
            SOURCE,
            &OPTIONS.join(" "),
            &target.option(),
            &format!("{:?}", nvrtc.version()),
            &driver_version.to_string(),
        ]);
        if let Some(bytes) = cache.read(&key) {
            return Ok(Self { bytes });
        }
        let image = compile(nvrtc, target)?;
        if let Err(error) = cache.write(&key, &image.bytes) {
            tracing::warn!(%error, "the compiled kernels cannot be kept, and are compiled at every start");
        }
        Ok(image)
    }

    /// As NVRTC gave it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The driver tells PTX from machine code by itself.
    pub(crate) fn into_ptx(self) -> Ptx {
        Ptx::from_binary(self.bytes)
    }
}

/// Compiles the kernels.
pub fn compile(nvrtc: &Nvrtc, target: Target) -> Result<Image, GpuError> {
    let options: Vec<String> = OPTIONS.iter().map(|&option| option.to_owned()).chain([target.option()]).collect();
    let output = if matches!(target, Target::Ptx(_)) { Output::Ptx } else { Output::Cubin };
    let bytes = nvrtc.compile(SOURCE, &options, output)?;
    if bytes.is_empty() {
        return Err(GpuError::new(GpuErrorKind::Failed, format!("NVRTC gave nothing for {target:?}")));
    }
    Ok(Image { bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_card_gets_machine_code_and_a_newer_one_ptx() {
        let known = [75, 80, 86, 90];
        assert_eq!(Target::choose(86, &known), Some(Target::Cubin(86)));
        assert_eq!(Target::choose(89, &known), Some(Target::Ptx(86)));
        assert_eq!(Target::choose(120, &known), Some(Target::Ptx(90)));
        assert_eq!(Target::choose(70, &known), None);
    }
}
