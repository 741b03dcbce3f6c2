//! Prompts to token ids, by the `tokenizers` crate, so that they are those that the text encoder was trained on.
//!
//! A pack carries either `tokenizer.json`, which says everything, or CLIP's `vocab.json` and `merges.txt`, from which the
//! same tokenizer is built. Length and padding come from `tokenizer_config.json` and `special_tokens_map.json`.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::{Lowercase, NFC, Replace, Sequence as Normalizers};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::{AddedToken, PaddingParams, PaddingStrategy, SplitDelimiterBehavior, Tokenizer, TruncationParams};

use crate::error::OnnxError;
use crate::pack::read_json;

/// How CLIP splits a text before it merges bytes (`openai/CLIP`, simple_tokenizer.py).
const CLIP_SPLIT: &str = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Tokens of a CLIP prompt, where no file says otherwise.
const CLIP_LENGTH: usize = 77;

/// Above this a `model_max_length` means "no limit" (transformers writes 10³⁰).
const NO_LENGTH: f64 = 1e6;

/// A tokenizer that always gives the same number of ids.
pub struct PromptTokenizer {
    tokenizer: Tokenizer,
    length: usize,
    has_warned: AtomicBool,
}

/// A prompt as ids, padded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenIds {
    /// As many as the tokenizer's length.
    pub ids: Vec<u32>,
    /// How many of them are not padding.
    pub used: usize,
    /// Where in the prompt, in bytes, what did not fit begins; its end where all did.
    pub cut: usize,
}

impl PromptTokenizer {
    /// Reads the tokenizer in `dir`. `length` is the number of ids; without it the folder's own is taken.
    pub fn open(dir: &Path, length: Option<usize>) -> Result<Self, OnnxError> {
        let optional = |name: &str| {
            let path = dir.join(name);
            if path.is_file() { read_json(&path) } else { Ok(Value::Null) }
        };
        let config = optional("tokenizer_config.json")?;
        let map = optional("special_tokens_map.json")?;
        let special = |key: &str| token_text(&map[key]).or_else(|| token_text(&config[key])).map(str::to_owned);
        let wrong = |e: &dyn std::fmt::Display| {
            OnnxError::invalid(format!("tokenizer in {}: {e}", dir.display()))
                .hint("the pack needs tokenizer.json, or vocab.json and merges.txt")
        };
        let json = dir.join("tokenizer.json");
        let mut tokenizer = if json.is_file() {
            Tokenizer::from_file(&json).map_err(|e| wrong(&e))?
        } else {
            let token = |key: &str, default: &str| special(key).unwrap_or_else(|| default.to_owned());
            let (bos, eos) = (token("bos_token", "<|startoftext|>"), token("eos_token", "<|endoftext|>"));
            clip(dir, &bos, &eos).map_err(|e| wrong(&e))?
        };
        if let Some(pad) = special("pad_token") {
            // Where the padding is an ordinary character (`!` in SD 2.x), training cut it out of the prompt before the
            // merges, as it does with every special token: so must we.
            if tokenizer.token_to_id(&pad).is_some() {
                tokenizer.add_special_tokens(&[AddedToken::from(pad.clone(), true).normalized(false)]);
            }
        }
        let own = config["model_max_length"].as_f64().filter(|&n| n < NO_LENGTH).map(|n| n as usize);
        let length = length.or(own).unwrap_or(CLIP_LENGTH);
        let pad_token = special("pad_token").or_else(|| special("eos_token"));
        let padding = padding(&tokenizer, pad_token, length);
        tokenizer.with_padding(Some(padding));
        let truncation = TruncationParams { max_length: length, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(|e| wrong(&e))?;
        Ok(Self { tokenizer, length, has_warned: AtomicBool::new(false) })
    }

    /// Number of ids of every prompt.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The ids of a prompt. What does not fit is cut off, with one warning a tokenizer; the end token is kept.
    pub fn encode(&self, prompt: &str) -> Result<TokenIds, OnnxError> {
        let failed = |e| OnnxError::failed(format!("tokenizer: {prompt:?}: {e}"));
        let encoding = self.tokenizer.encode(prompt, true).map_err(failed)?;
        let mut cut = prompt.len();
        if !encoding.get_overflowing().is_empty() {
            // Special tokens stand for nothing in the prompt.
            cut = encoding.get_offsets().iter().map(|(_, end)| *end).max().unwrap_or(0);
            cut = (cut..prompt.len()).find(|at| prompt.is_char_boundary(*at)).unwrap_or(prompt.len());
            if !self.has_warned.swap(true, Ordering::Relaxed) {
                let unused = prompt[cut..].trim();
                tracing::warn!(tokens = self.length, unused, "the prompt is too long: its end is not used");
            }
        }
        let used = encoding.get_attention_mask().iter().filter(|&&m| m == 1).count();
        Ok(TokenIds { ids: encoding.get_ids().to_vec(), used, cut })
    }
}

/// A special token is written as a string or as an object with its text.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

fn padding(tokenizer: &Tokenizer, token: Option<String>, length: usize) -> PaddingParams {
    let own = tokenizer.get_padding().cloned().unwrap_or_default();
    let found = token.and_then(|t| Some((tokenizer.token_to_id(&t)?, t)));
    let (pad_id, pad_token) = found.unwrap_or((own.pad_id, own.pad_token));
    PaddingParams { strategy: PaddingStrategy::Fixed(length), pad_id, pad_token, ..PaddingParams::default() }
}

/// CLIP's tokenizer from its table of merges.
fn clip(dir: &Path, bos: &str, eos: &str) -> tokenizers::Result<Tokenizer> {
    let file = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let model = BPE::from_file(&file("vocab.json"), &file("merges.txt"))
        .unk_token(eos.to_owned())
        .continuing_subword_prefix(String::new())
        .end_of_word_suffix("</w>".to_owned())
        .build()?;
    let mut tokenizer = Tokenizer::new(model);
    let special = |text: &str| AddedToken::from(text, true).normalized(false);
    tokenizer.add_special_tokens(&[special(bos), special(eos)]);
    let id = |text: &str| tokenizer.token_to_id(text).ok_or_else(|| format!("{text} is not in vocab.json"));
    let (bos, eos) = ((bos.to_owned(), id(bos)?), (eos.to_owned(), id(eos)?));
    let spaces = Replace::new(tokenizers::normalizers::replace::ReplacePattern::Regex(r"\s+".to_owned()), " ")?;
    tokenizer.with_normalizer(Some(Normalizers::new(vec![NFC.into(), spaces.into(), Lowercase.into()])));
    let split = Split::new(SplitPattern::Regex(CLIP_SPLIT.to_owned()), SplitDelimiterBehavior::Removed, true)?;
    tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(vec![
        split.into(),
        ByteLevel::default().add_prefix_space(false).into(),
    ])));
    tokenizer.with_post_processor(Some(RobertaProcessing::new(eos, bos).trim_offsets(false).add_prefix_space(false)));
    Ok(tokenizer)
}
