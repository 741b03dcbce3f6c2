//! Token ids against those of the Python tokenizers.

use std::path::Path;

use livediffusion_onnx::PromptTokenizer;
use serde_json::Value;

use crate::support::{data, pack_dir};

fn check(dir: &Path, key: &str) {
    let all: Value = serde_json::from_str(&std::fs::read_to_string(data("tokens.json")).unwrap()).unwrap();
    let cases = all[key].as_array().unwrap();
    let tokenizer = PromptTokenizer::open(dir, None).unwrap();
    assert_eq!((cases.len(), tokenizer.length()), (34, 77));
    for case in cases {
        let want: Vec<u32> = case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        let text = case["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text).unwrap().ids, want, "{key}: {text:?}");
    }
}

/// A folder with the two tables of `from` and a pad token, but no tokenizer.json.
fn tables(from: &Path, pad: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["vocab.json", "merges.txt"] {
        std::fs::copy(from.join(name), dir.path().join(name)).unwrap();
    }
    let map = format!(
        r#"{{"bos_token": "<|startoftext|>", "eos_token": {{"content": "<|endoftext|>"}}, "pad_token": "{pad}"}}"#
    );
    std::fs::write(dir.path().join("special_tokens_map.json"), map).unwrap();
    dir
}

#[test]
fn full_table_padded_with_the_end_token() {
    check(tables(&data("clip-full"), "<|endoftext|>").path(), "full/<|endoftext|>");
}

#[test]
fn full_table_padded_with_an_exclamation_mark() {
    check(tables(&data("clip-full"), "!").path(), "full/!");
}

#[test]
fn small_table_padded_with_the_end_token() {
    let from = pack_dir("tiny-sd15/tokenizer");
    check(tables(&from, "<|endoftext|>").path(), "small/<|endoftext|>");
}

#[test]
fn small_table_padded_with_an_exclamation_mark() {
    check(tables(&pack_dir("tiny-sd15/tokenizer"), "!").path(), "small/!");
}

#[test]
fn tokenizer_json_gives_the_same_ids() {
    check(&pack_dir("tiny-sd15/tokenizer"), "small/<|endoftext|>");
    check(&pack_dir("tiny-sdturbo/tokenizer"), "small/!");
}

#[test]
fn a_long_prompt_is_cut_and_keeps_its_end_token() {
    let tokenizer = PromptTokenizer::open(&pack_dir("tiny-sd15/tokenizer"), Some(8)).unwrap();
    let tokens = tokenizer.encode(&"word ".repeat(100)).unwrap();
    assert_eq!((tokens.ids.len(), tokens.used, tokens.ids[7]), (8, 8, 1513));
    // Six letters of a small table, each a token of its own, in words of other lengths and alphabets.
    for (prompt, rest) in [("q w  e\tr t y, and more", ", and more"), ("q w e r t É z", " z"), ("q w", "")] {
        assert_eq!(&prompt[tokenizer.encode(prompt).unwrap().cut..], rest, "{prompt:?}");
    }
}

#[test]
fn a_folder_without_tables_is_an_error_with_a_hint() {
    let empty = tempfile::tempdir().unwrap();
    let error = PromptTokenizer::open(empty.path(), None).err().unwrap();
    assert!(error.hint.unwrap().contains("vocab.json"));
}
