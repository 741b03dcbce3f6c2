//! One error type: what happened, where, and what to do about it.

use livediffusion_pipeline::model::ModelError;

use crate::memory::LESS_MEMORY;

/// What sort of thing went wrong; a command line turns it into its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The pack or a setting is wrong: nothing to install, something to correct.
    Invalid,
    /// Something that the machine lacks: the library, a provider, a driver.
    Missing,
    /// It failed while running.
    Failed,
}

/// Why a pack, a library or a provider could not be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}")]
pub struct OnnxError {
    /// What sort of thing went wrong.
    pub kind: ErrorKind,
    /// What failed and where: the file, the network, the tensor.
    pub what: String,
    /// The next command or setting to try.
    pub hint: Option<String>,
}

impl OnnxError {
    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Invalid, what: what.into(), hint: None }
    }

    pub(crate) fn missing(what: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Missing, what: what.into(), hint: None }
    }

    pub(crate) fn failed(what: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Failed, what: what.into(), hint: None }
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<ModelError> for OnnxError {
    fn from(error: ModelError) -> Self {
        Self { kind: ErrorKind::Failed, what: error.what, hint: error.hint }
    }
}

/// Turns ONNX Runtime's error from running `network` into ours, with a hint where its text gives the cause away. `on_card`: it runs on an
/// NVIDIA card.
pub(crate) fn run_error<R>(network: &str, on_card: bool, doing: &str, error: &ort::Error<R>) -> ModelError {
    explained(network, on_card, doing, error.message())
}

/// Words of ONNX Runtime's arenas, of CUDA and its libraries, and of the C++ library for "no memory left".
const FULL: [&str; 6] =
    ["out of memory", "out_of_memory", "failed to allocate", "bad_alloc", "bad alloc", "available memory"];

/// Those that a card's libraries alone have.
const FULL_ON_CARD: [&str; 5] =
    ["alloc_failed", "allocation_failed", "cudaerrormemoryallocation", "outofmemory", "cuda failure 2:"];

/// What ONNX Runtime says where TensorRT gave nothing; why, TensorRT's log alone has.
const NO_ENGINE: [&str; 3] =
    ["failed to create engine", "could not build execution context", "failed to create context"];

/// What is so then.
pub(crate) const CARD_IS_FULL: &str = "the card's memory is full";

/// Whether an error's text says that there is no memory left.
pub(crate) fn is_full(text: &str) -> bool {
    let lower = text.to_lowercase();
    FULL.iter().chain(&FULL_ON_CARD).any(|word| lower.contains(word))
}

/// ONNX Runtime's messages have several lines.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// From the error's text.
pub(crate) fn explained(network: &str, on_card: bool, doing: &str, text: &str) -> ModelError {
    let lower = text.to_lowercase();
    let what = format!("{network}: {doing}: {}", text.trim());
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if lower.contains("requires f16 but the device does not") {
        return ModelError::new(what)
            .with_hint("this device has no arithmetic in f16: --precision f32, or a model in f32");
    }
    if !is_full(text) {
        let hint = format!("often the card's memory: {LESS_MEMORY}; -v shows TensorRT's own words; or --provider cuda");
        let no_engine = says(&["tensorrt"]) && says(&NO_ENGINE);
        return if no_engine { ModelError::new(what).with_hint(hint) } else { ModelError::new(what) };
    }
    if says(&FULL_ON_CARD) || says(&["cuda", "cudnn", "cublas", "tensorrt", "gpu"]) {
        return ModelError::new(what).with_hint(format!("{CARD_IS_FULL}: {LESS_MEMORY}"));
    }
    if on_card {
        // Its arenas are ONNX Runtime's, whose words are the same for all memories.
        return ModelError::new(what).with_hint(format!("{CARD_IS_FULL}, or the machine's: {LESS_MEMORY}"));
    }
    ModelError::new(what).with_hint("the memory is full: try a smaller size, fewer steps, or close other programs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_memory_is_told_from_other_errors_and_the_card_s_from_the_machine_s() {
        let hint = |text: &str| explained("U-Net", false, "running", text).hint;
        let card = [
            "CUDA failure 2: out of memory ; GPU=0 ; hostname=x ; file=cuda_allocator.cc ; expr=cudaMalloc((void**)&p, size);",
            "bfc_arena.cc:376 Available memory of 1048576 is smaller than requested bytes of 33554432 (Cuda)",
            "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0",
            "CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED",
            "CUDNN failure 4002: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
            "TensorRT EP failed to create engine: OutOfMemory (no further information)",
        ];
        for text in card {
            let hint = hint(text).unwrap_or_default();
            assert!(
                hint.contains("card's memory") && hint.contains("--size") && hint.contains("TAESD"),
                "{text}: {hint}"
            );
        }
        for said in ["failed to create engine from network.", "could not build execution context for fused node: x"] {
            let hint = hint(&format!("TensorRT EP {said}")).unwrap_or_default();
            assert!(hint.contains("--size") && hint.contains("--provider cuda"), "{said}: {hint}");
        }
        let machine = hint("bfc_arena.cc:342 Failed to allocate memory for requested buffer of size 33554432");
        assert!(machine.unwrap().starts_with("the memory is full"));
        let arena = "bfc_arena.cc:360 Failed to allocate memory for requested buffer of size 33554432";
        let of_a_card = explained("U-Net", true, "running", arena).hint.unwrap_or_default();
        assert!(of_a_card.starts_with(CARD_IS_FULL) && of_a_card.contains("TAESD"), "{of_a_card}");
        let webgpu = "shader_helper.cc:416 GenerateSourceCode Program Transpose requires f16 but the device does not support it.";
        assert!(hint(webgpu).unwrap().contains("--precision f32"));
        assert_eq!(hint("CUDA failure 700: an illegal memory access was encountered"), None);
        assert_eq!(hint("Got invalid dimensions for input: sample"), None);
    }
}
