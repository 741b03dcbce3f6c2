//! Prompts to conditionings: one text encoder, or SDXL's two, and `prompt_kv` behind them where a pack has it.

use livediffusion_pipeline::frame::Size;
use livediffusion_pipeline::model::{Conditioning, ModelError, TextEncoder};

use crate::error::OnnxError;
use crate::graph::{Dim, TensorInfo};
use crate::pack::{Pack, PartName, TextPorts};
use crate::provider::{Chosen, Precision, SessionSettings};
use crate::runtime::Runtime;
use crate::session::{Model, Network};
use crate::tokenizer::PromptTokenizer;

/// The text side of a pack.
pub(crate) struct OnnxText {
    encoders: Vec<One>,
    kv: Option<KeysAndValues>,
    length: usize,
    width: usize,
    sdxl: bool,
}

/// The projections of the prompt that cross-attention needs: the same for every frame, hence made once a prompt (StreamDiffusion,
/// appendix A.2).
struct KeysAndValues {
    network: Network,
    width: usize,
}

/// One encoder and its tokenizer.
struct One {
    network: Network,
    tokenizer: PromptTokenizer,
    has_mask: bool,
    width: usize,
    pooled_width: Option<usize>,
}

impl OnnxText {
    pub(crate) fn load(
        runtime: &Runtime,
        pack: &Pack,
        chosen: &Chosen,
        settings: &SessionSettings,
    ) -> Result<Self, OnnxError> {
        let chosen = Chosen { precision: Precision::F32, ..chosen.clone() };
        let one = |ports| One::load(runtime, pack, ports, &chosen, settings);
        let encoders = pack.text.iter().map(one).collect::<Result<Vec<_>, _>>()?;
        let kv = KeysAndValues::load(runtime, pack, &chosen, settings)?;
        Ok(Self { encoders, kv, length: pack.prompt_length, width: pack.prompt_width, sdxl: pack.sdxl })
    }
}

impl KeysAndValues {
    fn load(
        runtime: &Runtime,
        pack: &Pack,
        chosen: &Chosen,
        settings: &SessionSettings,
    ) -> Result<Option<Self>, OnnxError> {
        let Some((ports, part)) = pack.prompt_kv.as_ref().zip(pack.part(PartName::PromptKv)) else {
            return Ok(None);
        };
        let io = (&[&ports.tokens][..], &[&ports.kv][..]);
        let network = Network::load(runtime, "prompt_kv", &Model::File(&part.file), io, chosen, settings)?;
        Ok(Some(Self { network, width: ports.width }))
    }

    /// [length, `width`] of an encoded prompt, [length, its width].
    fn project(&mut self, tokens: &[f32], (length, width): (usize, usize)) -> Result<Vec<f32>, ModelError> {
        let bound = self.network.bind(&[&[1, length, width]], &[&[1, length, self.width]])?;
        self.network.write(bound, 0, 0, tokens)?;
        self.network.run(bound)?;
        let mut projected = vec![0.0; length * self.width];
        self.network.read(bound, 0, &mut projected)?;
        Ok(projected)
    }
}

/// The sides of an encoder's input that its graph leaves open, under their names there: it is called with one prompt at a time, which
/// the tokenizer fills up to `length`.
fn call_sides(ids: &TensorInfo, length: usize) -> Vec<(String, i64)> {
    let named = |(dim, side): (&Dim, i64)| if let Dim::Symbol(name) = dim { Some((name.clone(), side)) } else { None };
    match ids.dims.as_deref() {
        // One name for both would have them equal.
        Some([Dim::Symbol(rows), Dim::Symbol(tokens)]) if rows == tokens => Vec::new(),
        Some([rows, tokens]) => [(rows, 1), (tokens, length as i64)].into_iter().filter_map(named).collect(),
        _ => Vec::new(),
    }
}

impl One {
    fn load(
        runtime: &Runtime,
        pack: &Pack,
        ports: &TextPorts,
        chosen: &Chosen,
        settings: &SessionSettings,
    ) -> Result<Self, OnnxError> {
        let part = pack.part(ports.part).ok_or_else(|| OnnxError::invalid(format!("no {}", ports.part)))?;
        let second = ports.part == PartName::TextEncoder2;
        let (label, folder) =
            if second { ("second text encoder", "tokenizer_2") } else { ("text encoder", "tokenizer") };
        // A pack with only the second encoder (SDXL's refiner) may keep its tokenizer under the first's name.
        let folder = [folder, "tokenizer"].map(|f| pack.dir.join(f)).into_iter().find(|d| d.is_dir());
        let folder = folder.ok_or_else(|| {
            OnnxError::invalid(format!("{} has no tokenizer/", pack.dir.display()))
                .hint("copy the tokenizer's folder of the original model into the pack")
        })?;
        let tokenizer = PromptTokenizer::open(&folder, Some(pack.prompt_length))?;
        let unknown = || OnnxError::invalid(format!("{}: its output has no fixed width", part.file.display()));
        let alone = (pack.text.len() == 1).then_some(pack.prompt_width);
        let pooled_width = |t: &TensorInfo| t.fixed(1).or_else(|| pack.unet.pooled.as_ref()?.fixed(1));
        let inputs: Vec<&TensorInfo> = [&ports.ids].into_iter().chain(&ports.mask).collect();
        let outputs: Vec<&TensorInfo> = [&ports.hidden].into_iter().chain(&ports.pooled).collect();
        let sides = call_sides(&ports.ids, pack.prompt_length);
        let (model, io) = (Model::File(&part.file), (&inputs[..], &outputs[..], &sides[..]));
        Ok(Self {
            network: Network::load_for(runtime, label, &model, io, chosen, settings)?,
            tokenizer,
            has_mask: ports.mask.is_some(),
            width: ports.hidden.fixed(2).or(alone).ok_or_else(unknown)?,
            pooled_width: ports.pooled.as_ref().map(|t| pooled_width(t).ok_or_else(unknown)).transpose()?,
        })
    }

    fn encode(&mut self, prompt: &str) -> Result<Encoded, ModelError> {
        let tokens = self.tokenizer.encode(prompt).map_err(|e| ModelError { what: e.what, hint: e.hint })?;
        let length = tokens.ids.len();
        let ids = [1, length];
        let hidden_dims = [1, length, self.width];
        let pooled_dims = [1, self.pooled_width.unwrap_or(0)];
        let inputs: &[&[usize]] = if self.has_mask { &[&ids, &ids] } else { &[&ids] };
        let outputs: &[&[usize]] =
            if self.pooled_width.is_some() { &[&hidden_dims, &pooled_dims] } else { &[&hidden_dims] };
        let bound = self.network.bind(inputs, outputs)?;
        self.network.write_ids(bound, 0, &tokens.ids)?;
        if self.has_mask {
            // diffusers passes no mask for CLIP: the padding is attended to.
            self.network.write_ids(bound, 1, &vec![1; length])?;
        }
        self.network.run(bound)?;
        let mut hidden = vec![0.0; length * self.width];
        self.network.read(bound, 0, &mut hidden)?;
        let mut pooled = self.pooled_width.map(|width| vec![0.0; width]);
        if let Some(pooled) = &mut pooled {
            self.network.read(bound, 1, pooled)?;
        }
        Ok(Encoded { hidden, pooled, cut: tokens.cut })
    }
}

/// What one encoder makes of a prompt.
struct Encoded {
    /// [length, width].
    hidden: Vec<f32>,
    pooled: Option<Vec<f32>>,
    /// Where in the prompt what did not fit begins.
    cut: usize,
}

impl TextEncoder for OnnxText {
    fn encode(&mut self, prompt: &str, size: Size) -> Result<Conditioning, ModelError> {
        let mut tokens = vec![0.0; self.length * self.width];
        let mut pooled = None;
        let (mut column, mut used) = (0, prompt.len());
        for one in &mut self.encoders {
            let encoded = one.encode(prompt)?;
            used = used.min(encoded.cut);
            for (row, values) in tokens.chunks_exact_mut(self.width).zip(encoded.hidden.chunks_exact(one.width)) {
                row[column..column + one.width].copy_from_slice(values);
            }
            column += one.width;
            pooled = encoded.pooled.or(pooled);
        }
        let mut width = self.width;
        if let Some(kv) = &mut self.kv {
            tokens = kv.project(&tokens, (self.length, width))?;
            width = kv.width;
        }
        // Original size, crop, target size; diffusers' order is height before width.
        let (tall, wide) = (size.height as f32, size.width as f32);
        let time_ids = self.sdxl.then_some([tall, wide, 0.0, 0.0, tall, wide]);
        let unused = prompt[used..].trim().to_owned();
        Ok(Conditioning { tokens, length: self.length, width, pooled, time_ids, timestep_cond: None, unused })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::DType;

    #[test]
    fn sides_that_the_graph_leaves_open_are_those_of_one_prompt() {
        let ids = |dims: &[&str]| TensorInfo {
            name: "input_ids".to_owned(),
            dtype: DType::I64,
            dims: Some(dims.iter().map(|dim| dim.parse().map_or(Dim::Symbol((*dim).to_owned()), Dim::Fixed)).collect()),
        };
        let sides = |dims: &[&str]| call_sides(&ids(dims), 77);
        assert_eq!(sides(&["batch", "sequence"]), [("batch".to_owned(), 1), ("sequence".to_owned(), 77)]);
        assert_eq!(sides(&["batch", "77"]), [("batch".to_owned(), 1)]);
        for none in [&["1", "77"][..], &["n", "n"], &["tokens"]] {
            assert_eq!(sides(none), []);
        }
        assert_eq!(call_sides(&TensorInfo { dims: None, ..ids(&[]) }, 77), []);
    }
}
