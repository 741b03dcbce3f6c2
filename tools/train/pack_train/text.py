"""The text encoder learns from the sentence model which style a prompt means.

Its lessons are captions, whose style is known; captions of two styles; and texts of all kinds (WordNet's words and glosses, words at
random), of which a sentence model twenty times its size tells how near they come to every style. So it learns what the sentence
model knows of words that no caption has, and to find the word that matters among others.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import progress
from .captions import PHRASES, TOKENS, Captioner, words
from .networks import TEXT, TextEncoder
from .vocabulary import Sentences, Vocabulary, nearness

STYLES = list(PHRASES)
TEXTS = 90000
"""Of all kinds. The sentence model takes some minutes for them; fewer were not tried."""
LONGEST = 10
"""Words of a text; prompts are short."""
FLOOR = 0.3
"""Cosine under which a text is taken to mean no style: the picture stays as it is. At 0.24, unknown words were taken for sepia."""
SOFTNESS = 0.04
"""Of the teacher's choice between styles that are about as near, as a difference of cosines."""
BATCH = (48, 16, 4, 128)
"""Captions, captions of two styles, prompts without a known word, and texts in a batch."""
MINUTES = 4.0


@dataclass
class Lessons:
    """Texts as token ids, `int64[N, 24]`, the teacher's vectors, `float32[N, 384]`, and its shares of the styles."""

    ids: Tensor
    vectors: Tensor
    shares: Tensor

    @staticmethod
    def of(texts: list[str], sentences: Sentences, vocabulary: Vocabulary) -> "Lessons":
        vectors = sentences.vectors(texts)
        ids = torch.tensor([vocabulary.ids(text) for text in texts])
        return Lessons(ids, torch.from_numpy(vectors), shares(nearness(sentences, vectors)))


def shares(scores: np.ndarray) -> Tensor:
    """Nearness to the styles as shares that sum to 1; what is near to none means the photograph."""
    scores = scores.copy()
    photo = STYLES.index("photo")
    scores[:, photo] = np.maximum(scores[:, photo], FLOOR)
    return torch.softmax(torch.from_numpy(scores) / SOFTNESS, -1)


def glosses(folder: Path) -> Iterator[str]:
    """WordNet's words and what it says of them, in short pieces."""
    for file in ("data.noun", "data.adj", "data.verb"):
        for line in (folder / file).read_text(encoding="utf8").splitlines():
            fields, _, gloss = line.partition(" | ")
            if not gloss or line.startswith("  "):
                continue
            yield fields.split(" ")[4].replace("_", " ")
            yield from (piece for piece in re.split(r'[;"()]', gloss) if piece.strip())


def texts(folder: Path, vocabulary: Vocabulary, count: int, chance: random.Random) -> list[str]:
    """Of WordNet three in four, the rest some words of the vocabulary, rare ones as often as frequent ones."""
    known = [word for word in list(vocabulary.index) if word.isalpha() and len(word) > 2]
    found = [" ".join(told) for gloss in glosses(folder) if 0 < len(told := words(gloss)) <= LONGEST]
    found = chance.sample(found, min(len(found), 3 * count // 4))
    while len(found) < count:
        found.append(" ".join(chance.choices(known, k=chance.randint(1, 3))))
    return found


class Lesson:
    """Batches of token ids, shares of the styles, and, of the texts at the end, the teacher's vectors."""

    def __init__(self, vocabulary: Vocabulary, lessons: Lessons, seed: int) -> None:
        self.vocabulary = vocabulary
        self.lessons = lessons
        self.captioner = Captioner(vocabulary.similar, vocabulary.fillers, seed)
        self.chance = torch.Generator().manual_seed(seed)

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        single, double, blank, free = BATCH
        ids, wanted = [], []
        for style in torch.randint(len(STYLES), (single,), generator=self.chance).tolist():
            ids.append(self.vocabulary.ids(self.captioner.caption(STYLES[style])))
            wanted.append(F.one_hot(torch.tensor(style), len(STYLES)).float())
        # Nothing said, and words that nobody has heard of, leave the picture as it is.
        for count in torch.randint(5, (blank,), generator=self.chance).tolist():
            ids.append(self.vocabulary.ids(" ".join(["unheardof"] * count)))
            wanted.append(F.one_hot(torch.tensor(STYLES.index("photo")), len(STYLES)).float())
        for pair in torch.randint(len(STYLES), (double, 2), generator=self.chance):
            ids.append(self.vocabulary.ids(self.captioner.mixed(*(STYLES[style] for style in pair))))
            wanted.append(F.one_hot(pair, len(STYLES)).float().mean(0))
        chosen = torch.randint(len(self.lessons.ids), (free,), generator=self.chance)
        return (
            torch.cat([torch.tensor(ids), self.lessons.ids[chosen]]),
            torch.cat([torch.stack(wanted), self.lessons.shares[chosen]]),
            self.lessons.vectors[chosen],
        )


def loss(text: TextEncoder, recall: nn.Linear, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    ids, wanted, vectors = batch
    hidden = text.hidden(ids)
    told = F.log_softmax(text.tell(hidden), -1)
    whole = -(wanted * told[:, 0]).sum(-1).mean()
    # Every token says what the whole prompt says, roughly: the U-Net asks them too.
    each = -(wanted[:, None] * told[:, 1:]).sum(-1)
    known = (ids[:, 1:] != 0).float()
    recalled = F.normalize(recall(hidden[-len(vectors) :, 0]), dim=-1)
    return whole + 0.1 * (each * known).sum() / known.sum() + 2 * (1 - (recalled * vectors).sum(-1)).mean()


def train(data: Path, vocabulary_path: Path, path: Path, seed: int, minutes: float = MINUTES, count: int = TEXTS) -> None:
    """Trains for so many minutes and writes the text encoder to `path`. `data` is what `photos fetch` gave."""
    vocabulary = Vocabulary.load(vocabulary_path)
    sentences = Sentences(data / "sentences")
    made = Lessons.of(texts(data / "wordnet", vocabulary, count, random.Random(seed)), sentences, vocabulary)
    learn(vocabulary, made, path, seed, minutes)


def learn(vocabulary: Vocabulary, lessons: Lessons, path: Path, seed: int, minutes: float) -> None:
    torch.manual_seed(seed)
    text = TextEncoder(torch.from_numpy(vocabulary.vectors), len(STYLES))
    recall = nn.Linear(TEXT, lessons.vectors.shape[1])
    kept = len(lessons.ids) // 50
    apart = Lessons(lessons.ids[:kept], lessons.vectors[:kept], lessons.shares[:kept])
    lesson = Lesson(vocabulary, Lessons(lessons.ids[kept:], lessons.vectors[kept:], lessons.shares[kept:]), seed)
    parameters = [p for p in [*text.parameters(), *recall.parameters()] if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, 1.5e-3, betas=(0.9, 0.98), weight_decay=0.02)
    clock = progress.Clock(minutes)
    step = 0
    while clock.share < 1:
        value = loss(text, recall, lesson.draw())
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.param_groups[0]["lr"] = 1.5e-3 * clock.rate(step)
        optimiser.step()
        step += 1
        if step % 500 == 0:
            print(f"text step {step}, {clock.spent:.1f} min: loss {value.item():.3f}, as the teacher {agreement(text, apart):.1%}", flush=True)
    progress.save({"text": text.state_dict(), "tokens": TOKENS}, path)


@torch.no_grad()
def agreement(text: TextEncoder, lessons: Lessons) -> float:
    """Of texts that are no lessons, the share for which the text encoder chooses the teacher's style."""
    if not len(lessons.ids):
        return float("nan")
    return (text.weights(lessons.ids)[:, 0].argmax(-1) == lessons.shares.argmax(-1)).float().mean().item()
