//! The shapes that TensorRT builds an engine for.
//!
//! A profile names every dynamic input, or it is refused; and a call outside of it is an error rather than a new engine, which
//! would take minutes in the middle of a stream. So it spans one row to the most that the session ever calls with, and pictures
//! from 256 pixels a side, to which adaptive quality may shrink them, to the largest that the session may be told to take.

use std::fmt::Write as _;

use livediffusion_pipeline::frame::Size;
use livediffusion_pipeline::model::ModelError;

use crate::graph::{Dim, TensorInfo};

/// What calls of a session are like, at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Width of the pictures.
    pub width: usize,
    /// Height of the pictures.
    pub height: usize,
    /// Longest side, in pixels, that pictures may come to have while the session runs; 0 for no longer than these.
    pub most_side: usize,
    /// Pictures that enter together: more are in no call of the VAE.
    pub frames: usize,
    /// Rows of the U-Net in a usual call: steps × frame buffer, and those of the negative prompt.
    pub rows: usize,
    /// Rows that a call may come to have while the session runs, as steps and guidance change.
    pub most_rows: usize,
    /// Tokens of a prompt.
    pub tokens: usize,
    /// Pixels of a side for each of a latent.
    pub factor: usize,
}

/// Sides down to which pictures may be shrunk while a session runs.
const SMALLEST: usize = 256;

impl Extent {
    /// The shortest and the longest that a side of that many pixels may come to be.
    fn sides(&self, pixels: usize) -> [usize; 2] {
        [pixels.min(SMALLEST), pixels.max(self.most_side)]
    }

    /// Height and width of the smallest latents in the profile.
    pub(crate) fn smallest_latent(&self) -> [usize; 2] {
        [self.height, self.width].map(|pixels| self.sides(pixels)[0] / self.factor.max(1))
    }

    /// Whether pictures of that size are within the profile.
    ///
    /// # Errors
    /// If not: what the profile takes, and what to do.
    pub fn admit(&self, size: Size) -> Result<(), ModelError> {
        let (wide, tall) = (self.sides(self.width), self.sides(self.height));
        let is_within = |side: usize, [least, most]: [usize; 2]| (least..=most).contains(&side);
        if is_within(size.width, wide) && is_within(size.height, tall) {
            return Ok(());
        }
        let [[least_wide, wide], [least_tall, tall]] = [wide, tall];
        let what = format!(
            "TensorRT's engines are for pictures from {least_wide}x{least_tall} to {wide}x{tall}, and not for {size}"
        );
        Err(ModelError::new(what).with_hint(format!("start again with --size {size}: engines for it are built then")))
    }
}

/// Which tensor of a network an input is; what its sides mean follows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// [rows, channels, height, width] in pixels.
    Picture,
    /// The same in latents.
    Latent,
    /// [rows, tokens, width].
    Prompt,
    /// [rows] or [rows, width].
    Row,
}

impl Kind {
    /// By rank and, for four sides, by the number of channels: pictures have three.
    fn of(input: &TensorInfo, sides: &[(String, i64)]) -> Option<Self> {
        let dims = input.dims.as_ref()?;
        let channels = |dim: &Dim| if let Dim::Fixed(side) = dim { Some(*side as i64) } else { known(dim, sides) };
        match dims.len() {
            4 if channels(&dims[1]) == Some(3) => Some(Self::Picture),
            4 => Some(Self::Latent),
            3 => Some(Self::Prompt),
            1 | 2 => Some(Self::Row),
            _ => None,
        }
    }
}

/// The profile for a network with these inputs as ONNX Runtime's options take it: smallest, usual, largest. `None` if nothing is
/// dynamic, or if a side is whose meaning is not known. `sides` are the same in every call, by their names.
pub(crate) fn profile(inputs: &[&TensorInfo], sides: &[(String, i64)], extent: &Extent) -> Option<[String; 3]> {
    let mut texts = [String::new(), String::new(), String::new()];
    // The VAE takes pictures or latents alone. TensorRT has memory for the most rows that a network may get, and its layers are the widest.
    let rows = match inputs {
        [_] => [1, extent.frames.max(1), extent.frames.max(1)],
        _ => [1, extent.rows.max(1), extent.most_rows.max(extent.rows).max(1)],
    };
    for input in inputs {
        let dims = input.dims.as_ref()?;
        if !is_open(input, sides) {
            continue;
        }
        let kind = Kind::of(input, sides)?;
        let mut shapes = [Vec::new(), Vec::new(), Vec::new()];
        for (axis, dim) in dims.iter().enumerate() {
            let lengths = match (dim, known(dim, sides)) {
                (Dim::Fixed(side), _) => [*side; 3],
                (_, Some(side)) => [usize::try_from(side).ok()?; 3],
                _ if axis == 0 => rows,
                _ => range(kind, axis, extent)?,
            };
            for (shape, side) in shapes.iter_mut().zip(lengths) {
                shape.push(side.to_string());
            }
        }
        for (text, shape) in texts.iter_mut().zip(shapes) {
            let comma = if text.is_empty() { "" } else { "," };
            // Writing to a string does not fail.
            let _ = write!(text, "{comma}{}:{}", input.name, shape.join("x"));
        }
    }
    (!texts[0].is_empty()).then_some(texts)
}

/// The channels of the first of these inputs, [rows, channels, height, width], by the name that its graph gives them where it leaves them
/// open, as older exporters do. They follow from the weights, and TensorRT wants to be told.
pub(crate) fn channels_of(inputs: &[&TensorInfo], channels: usize) -> Vec<(String, i64)> {
    let Some(name) = inputs.first().filter(|input| input.rank() == Some(4)).and_then(|input| input.symbol(1)) else {
        return Vec::new();
    };
    // One name for sides that mean something else would have them equal.
    let places = inputs.iter().flat_map(|input| input.dims.iter().flatten());
    let is_alone = places.filter(|dim| matches!(dim, Dim::Symbol(other) if other == name)).count() == 1;
    if is_alone { vec![(name.to_owned(), channels as i64)] } else { Vec::new() }
}

/// Whether some side of an input is neither fixed nor named.
pub(crate) fn is_open(input: &TensorInfo, sides: &[(String, i64)]) -> bool {
    let is_known = |dim: &Dim| matches!(dim, Dim::Fixed(_)) || known(dim, sides).is_some();
    !input.dims.as_ref().is_some_and(|dims| dims.iter().all(is_known))
}

/// The length of a side that is the same in every call.
fn known(dim: &Dim, sides: &[(String, i64)]) -> Option<i64> {
    let Dim::Symbol(name) = dim else { return None };
    sides.iter().find(|(known, _)| known == name).map(|(_, side)| *side)
}

/// Smallest, usual and largest length of a dynamic side that is not rows.
fn range(kind: Kind, axis: usize, extent: &Extent) -> Option<[usize; 3]> {
    let side = |pixels: usize, unit: usize| {
        let [least, most] = extent.sides(pixels);
        [least / unit, pixels / unit, most / unit]
    };
    match (kind, axis) {
        (Kind::Picture, 2) => Some(side(extent.height, 1)),
        (Kind::Picture, 3) => Some(side(extent.width, 1)),
        (Kind::Latent, 2) => Some(side(extent.height, extent.factor.max(1))),
        (Kind::Latent, 3) => Some(side(extent.width, extent.factor.max(1))),
        (Kind::Prompt, 1) => Some([extent.tokens; 3]),
        // Channels and widths belong to the weights: a graph that does not name them cannot be guessed.
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::DType;

    fn input(name: &str, dims: &[Option<usize>]) -> TensorInfo {
        let dim = |side: &Option<usize>| side.map_or(Dim::Unknown, Dim::Fixed);
        TensorInfo { name: name.into(), dtype: DType::F16, dims: Some(dims.iter().map(dim).collect()) }
    }

    const EXTENT: Extent =
        Extent { width: 768, height: 512, most_side: 0, frames: 1, rows: 2, most_rows: 4, tokens: 77, factor: 8 };

    #[test]
    fn a_side_that_nobody_knows_is_open() {
        let ids = |dims: Option<Vec<Dim>>| TensorInfo { name: "ids".into(), dtype: DType::I64, dims };
        let named = |name: &str| Dim::Symbol(name.to_owned());
        let sides = [("batch".to_owned(), 1), ("tokens".to_owned(), 77)];
        assert!(!is_open(&ids(Some(vec![named("batch"), named("tokens"), Dim::Fixed(4)])), &sides));
        assert!(is_open(&ids(Some(vec![named("batch"), named("width")])), &sides));
        assert!(is_open(&ids(Some(vec![Dim::Unknown])), &sides));
        assert!(is_open(&ids(None), &sides));
    }

    #[test]
    fn every_dynamic_input_of_a_unet_is_named() {
        let sample = input("sample", &[None, Some(4), None, None]);
        let (time, prompt) = (input("timestep", &[None]), input("encoder_hidden_states", &[None, None, Some(1024)]));
        let fixed = input("fixed", &[Some(1), Some(6)]);
        let shapes = profile(&[&sample, &time, &prompt, &fixed], &[], &EXTENT).unwrap();
        assert_eq!(EXTENT.smallest_latent(), [32, 32]);
        assert_eq!(Extent { height: 128, ..EXTENT }.smallest_latent(), [16, 32]);
        assert_eq!(
            shapes,
            [
                "sample:1x4x32x32,timestep:1,encoder_hidden_states:1x77x1024",
                "sample:2x4x64x96,timestep:2,encoder_hidden_states:2x77x1024",
                "sample:4x4x64x96,timestep:4,encoder_hidden_states:4x77x1024",
            ]
        );
    }

    #[test]
    fn a_side_that_every_call_has_alike_is_no_range() {
        let named = |name: &str| Dim::Symbol(name.to_owned());
        let dims = Some(vec![named("batch"), named("height")]);
        let input = TensorInfo { name: "x".into(), dtype: DType::F32, dims };
        let sides = [("batch".to_owned(), 1), ("height".to_owned(), 77)];
        assert_eq!(profile(&[&input], &sides, &EXTENT), None, "nothing is open");
        let prompt = TensorInfo { dims: Some(vec![named("rows"), named("height"), Dim::Fixed(8)]), ..input };
        assert_eq!(profile(&[&prompt], &sides, &EXTENT).unwrap(), ["x:1x77x8"; 3]);
    }

    #[test]
    fn channels_that_the_graph_leaves_open_are_the_models() {
        let named = |name: &str, sides: &[&str]| {
            let dim = |side: &&str| side.parse().map_or_else(|_| Dim::Symbol((*side).to_owned()), Dim::Fixed);
            TensorInfo { name: name.into(), dtype: DType::F16, dims: Some(sides.iter().map(dim).collect()) }
        };
        let sample = named("sample", &["batch", "num_channels", "height", "width"]);
        let time = named("timestep", &["steps"]);
        let sides = channels_of(&[&sample, &time], 4);
        assert_eq!(sides, [("num_channels".to_owned(), 4)]);
        let shapes = profile(&[&sample, &time], &sides, &EXTENT).unwrap();
        assert_eq!(shapes[1], "sample:2x4x64x96,timestep:2");
        // A VAE's, which are pictures by that number alone.
        let shapes = profile(&[&sample], &channels_of(&[&sample], 3), &EXTENT).unwrap();
        assert_eq!(shapes[1], "sample:1x3x512x768");
        for unsure in [named("x", &["b", "4", "h", "w"]), named("x", &["b", "a", "a", "w"]), named("x", &["b", "c"])] {
            assert_eq!(channels_of(&[&unsure], 4), []);
        }
        assert_eq!(channels_of(&[&sample, &named("other", &["num_channels"])], 4), []);
    }

    #[test]
    fn a_picture_is_in_pixels_and_small_ones_are_not_made_larger() {
        let picture = input("sample", &[None, Some(3), None, None]);
        let small = Extent { width: 128, height: 256, ..EXTENT };
        let shapes = profile(&[&picture], &[], &small).unwrap();
        assert_eq!(shapes, ["sample:1x3x256x128"; 3], "steps are no pictures");
        let shapes = profile(&[&picture], &[], &Extent { frames: 2, ..small }).unwrap();
        assert_eq!(shapes, ["sample:1x3x256x128", "sample:2x3x256x128", "sample:2x3x256x128"]);
    }

    #[test]
    fn a_size_outside_of_the_profile_is_refused_with_what_to_do() {
        let extent = Extent { width: 512, height: 320, most_side: 1024, ..EXTENT };
        for (width, height) in [(512, 320), (256, 256), (1024, 1024)] {
            extent.admit(Size::new(width, height)).unwrap();
        }
        for (width, height) in [(1280, 720), (512, 128), (1032, 512)] {
            let size = Size::new(width, height);
            let error = extent.admit(size).unwrap_err();
            assert!(error.what.contains("from 256x256 to 1024x1024"), "{error}");
            assert!(error.hint.unwrap().contains(&format!("--size {size}")));
        }
        // What a session begins with is always within.
        Extent { width: 1280, height: 128, ..extent }.admit(Size::new(1280, 128)).unwrap();
    }

    #[test]
    fn a_larger_size_that_may_come_is_within_and_the_usual_one_stays() {
        let extent = Extent { most_side: 640, ..EXTENT };
        let picture = input("sample", &[None, Some(3), None, None]);
        let shapes = profile(&[&picture], &[], &extent).unwrap();
        // No side is shorter than the session's own.
        assert_eq!(shapes, ["sample:1x3x256x256", "sample:1x3x512x768", "sample:1x3x640x768"]);
        let latent = input("latent_sample", &[None, Some(4), None, None]);
        assert_eq!(profile(&[&latent], &[], &extent).unwrap()[2], "latent_sample:1x4x80x96");
    }

    #[test]
    fn nothing_is_guessed() {
        assert_eq!(profile(&[&input("sample", &[Some(1), Some(4), Some(64), Some(64)])], &[], &EXTENT), None);
        assert_eq!(profile(&[&input("sample", &[None, None, None, None])], &[], &EXTENT), None);
        assert_eq!(profile(&[&input("odd", &[None; 5])], &[], &EXTENT), None);
        let unknown = TensorInfo { name: "x".into(), dtype: DType::F32, dims: None };
        assert_eq!(profile(&[&unknown], &[], &EXTENT), None);
    }
}
