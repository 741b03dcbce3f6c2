//! A golden case: what the reference was given and every tensor that it made of it.

use std::path::{Path, PathBuf};

use livediffusion_pipeline::frame::Size;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::Value;

use crate::failure::{Failure, Outcome};

/// The hint where a tensor is not what the configuration says.
pub(super) const CONTRADICTION: &str = "the case contradicts its own configuration: make it again";

/// NAME.json, as far as it is replayed.
#[derive(Debug, Deserialize)]
struct CaseFile {
    name: String,
    config: CaseConfig,
    #[serde(default)]
    filter: Vec<FilterRecord>,
    pictures: Option<Vec<usize>>,
}

/// The reference's settings.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct CaseConfig {
    pub(super) model: String,
    pub(super) mode: String,
    pub(super) t_index_list: Vec<usize>,
    pub(super) cfg_type: String,
    pub(super) guidance_scale: f32,
    pub(super) delta: f32,
    pub(super) num_inference_steps: usize,
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) use_denoising_batch: bool,
    pub(super) do_add_noise: bool,
    pub(super) frame_buffer_size: usize,
    pub(super) frames: usize,
    pub(super) prompt: String,
    #[serde(default)]
    pub(super) negative_prompt: String,
    pub(super) update_prompt: Option<PromptUpdate>,
    pub(super) similar: Option<FilterConfig>,
    pub(super) scheduler_override: Option<serde_json::Map<String, Value>>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct PromptUpdate {
    pub(super) frame: usize,
    pub(super) prompt: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct FilterConfig {
    pub(super) threshold: f64,
    pub(super) max_skip_frame: u32,
}

/// What the reference's filter did with a frame.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct FilterRecord {
    pub(super) frame: usize,
    pub(super) cos: Option<f64>,
    pub(super) sample: Option<f64>,
    pub(super) processed: bool,
}

/// A defect of the reference that a case shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReferenceBug {
    /// 1: one step + self never resets the virtual noise.
    OneStepSelf,
    /// 2: without re-noising the virtual noise has noise in it all the same.
    NoNoiseResidual,
    /// 3: sequential self has a virtual noise of zero.
    SequentialSelf,
    /// 4: sequential initialize asks for the negative at every step.
    SequentialInitialize,
    /// Sequential img2img overwrites its initial noise.
    SequentialNoise,
    /// The boundary scalings are put on the residual too.
    BoundaryResidual,
}

impl ReferenceBug {
    fn parse(value: &Value) -> Option<Self> {
        // Recorded as a number, or as a word for defects that the list does not number.
        let bug = value.get("bug").unwrap_or(value);
        match bug.as_u64().map(|n| n.to_string()).as_deref().or(bug.as_str())? {
            "1" => Some(Self::OneStepSelf),
            "2" => Some(Self::NoNoiseResidual),
            "3" => Some(Self::SequentialSelf),
            "4" => Some(Self::SequentialInitialize),
            "seq-init-noise" => Some(Self::SequentialNoise),
            "boundary-residual" => Some(Self::BoundaryResidual),
            _ => None,
        }
    }
}

/// An f32 tensor with its shape.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<f32>,
}

impl Tensor {
    /// One row of the first dimension.
    pub(super) fn row(&self, index: usize) -> Option<&[f32]> {
        let rows = *self.shape.first()?;
        let len = self.values.len() / rows.max(1);
        (index < rows).then(|| &self.values[index * len..(index + 1) * len])
    }

    pub(super) fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(0)
    }
}

/// A loaded case.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) config: CaseConfig,
    pub(super) filter: Vec<FilterRecord>,
    pub(super) bug: Option<ReferenceBug>,
    /// Recorded frames whose pictures are compared; all where the case does not say.
    pub(super) pictures: Option<Vec<usize>>,
    /// Recorded frames that went through the networks, in order.
    pub(super) processed: Vec<usize>,
    bytes: Vec<u8>,
    path: PathBuf,
}

impl Case {
    /// Reads NAME.json and the NAME.safetensors beside it. A defect is named in the case itself (`reference_bug`) or in
    /// the `index.json` of its folder or of the one above.
    pub(super) fn load(path: &Path) -> Outcome<Self> {
        let bad = |what: String| {
            let hint = "a case is NAME.json with NAME.safetensors beside it".to_owned();
            Failure::usage(format!("{}: {what}", path.display()), hint)
        };
        let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
        let json: Value = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        let CaseFile { name, config, filter, pictures } =
            serde_json::from_value(json.clone()).map_err(|error| bad(error.to_string()))?;
        let tensors = path.with_extension("safetensors");
        let bytes = std::fs::read(&tensors).map_err(|error| bad(format!("{}: {error}", tensors.display())))?;
        SafeTensors::deserialize(&bytes).map_err(|error| bad(format!("{}: {error}", tensors.display())))?;
        if config.t_index_list.is_empty() || config.frame_buffer_size == 0 || config.frames == 0 {
            return Err(bad("t_index_list, frame_buffer_size or frames is empty".into()));
        }
        let named = json.get("reference_bug").cloned().or_else(|| bug_in_index(path, &name));
        let bug = named
            .as_ref()
            .filter(|value| !value.is_null())
            .map(|value| ReferenceBug::parse(value).ok_or_else(|| bad(format!("reference_bug {value} is not known"))));
        let processed = if filter.is_empty() {
            (0..config.frames).collect()
        } else {
            filter.iter().filter(|record| record.processed).map(|record| record.frame).collect()
        };
        let bug = bug.transpose()?;
        Ok(Self { name, config, filter, bug, pictures, processed, bytes, path: path.to_path_buf() })
    }

    pub(super) fn is_img2img(&self) -> bool {
        self.config.mode == "img2img"
    }

    /// Whether the picture of a recorded frame is to be compared.
    pub(super) fn has_picture(&self, frame: usize) -> bool {
        self.bug.is_none() && self.pictures.as_ref().is_none_or(|pictures| pictures.contains(&frame))
    }

    /// Size of its pictures.
    pub(super) fn size(&self) -> Size {
        Size::new(self.config.width, self.config.height)
    }

    /// Denoising steps N.
    pub(super) fn steps(&self) -> usize {
        self.config.t_index_list.len()
    }

    /// A tensor that must be there.
    pub(super) fn tensor(&self, key: &str) -> Outcome<Tensor> {
        self.find(key)?.ok_or_else(|| {
            Failure::usage(
                format!("{}: the tensor {key} is missing", self.path.display()),
                "make the case again, or take it from where it was complete",
            )
        })
    }

    /// A tensor that may be there, of any number type, as f32.
    pub(super) fn find(&self, key: &str) -> Outcome<Option<Tensor>> {
        let tensors = self.tensors()?;
        let Ok(view) = tensors.tensor(key) else { return Ok(None) };
        let data = view.data();
        let values: Vec<f32> = match view.dtype() {
            Dtype::F32 => data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F64 => data.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
            Dtype::I64 => data.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as f32).collect(),
            Dtype::I32 => data.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b) as f32).collect(),
            Dtype::U8 => data.iter().map(|b| f32::from(*b)).collect(),
            other => {
                let what = format!("{}: {key} has the type {other:?}", self.path.display());
                return Err(Failure::usage(what, "f32, f64, i64, i32 and u8 are read"));
            }
        };
        Ok(Some(Tensor { shape: view.shape().to_vec(), values }))
    }

    /// Checks that a tensor has a shape.
    pub(super) fn expect_shape(&self, key: &str, tensor: &Tensor, shape: &[usize]) -> Outcome<()> {
        if tensor.shape == shape {
            return Ok(());
        }
        let what = format!("{}: {key} has the shape {:?}, not {shape:?}", self.path.display(), tensor.shape);
        Err(Failure::usage(what, CONTRADICTION))
    }

    /// Keys of a recorded frame's random draws of one kind, in the order in which they were drawn.
    pub(super) fn draws(&self, frame: usize, kind: &str) -> Outcome<Vec<String>> {
        let prefix = format!("f{frame:02}/draw");
        let mut found: Vec<(usize, String)> = self
            .tensors()?
            .names()
            .into_iter()
            .filter_map(|name| {
                let (number, drawn) = name.strip_prefix(&prefix)?.split_once('_')?;
                (drawn == kind).then(|| Some((number.parse().ok()?, name.to_owned())))?
            })
            .collect();
        found.sort();
        Ok(found.into_iter().map(|(_, name)| name).collect())
    }

    fn tensors(&self) -> Outcome<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.bytes)
            .map_err(|error| Failure::usage(format!("{}: {error}", self.path.display()), "make the case again"))
    }
}

/// The defect that an `index.json` names, in the folder of the case or in the one above.
fn bug_in_index(path: &Path, name: &str) -> Option<Value> {
    path.ancestors().skip(1).take(2).find_map(|folder| {
        let text = std::fs::read_to_string(folder.join("index.json")).ok()?;
        let list: Vec<Value> = serde_json::from_str(&text).ok()?;
        list.iter().find(|entry| entry["name"] == name)?.get("reference_bug").cloned()
    })
}
