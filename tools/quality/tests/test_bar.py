"""What is asked of a pack, on made-up figures: each line can be met and missed."""

import json

import pytest

from pack_quality import bar
from pack_quality.freetext import PROMPTS
from pack_quality.measure import Steps
from pack_train.captions import PHRASES
from pack_train.styles import STYLES


def figures(**changed) -> dict:
    style = {"psnr": 25.0, "edge_f1": 0.7, "flicker": 0.3, "told": 1.0, "worst": 0}
    rising = [[1, 1.0], [2, 2.0], [3, 5.0]]
    made = {
        "styles": 30,
        "stylisers": {"noir": {"edge_f1": 0.8, "told": 1.0}},
        "steps": {name: str(at) for name, at in Steps().listed().items()},
        "one": {"noir": dict(style)},
        "freer_one": {"noir": dict(style)},
        **{steps: {"noir": style | {"psnr": 26.0}} for steps in bar.MORE},
        "steadiness": {"noir": {"warp": 4.0, "styliser_warp": 3.0}},
        "strength": rising,
        "guidance": rising,
        "negative": rising,
        "faces": {"portraits": 8, "share": 0.95, "of_input": 0.6, "styles": {}},
        "free_text": [{"prompt": str(number), "shown": "noir", "sensible": number < 85} for number in range(100)],
    }
    for path, value in changed.items():
        *folders, name = path.split("__")
        place = made
        for folder in folders:
            place = place[folder]
        place[name] = value
    return made


def missed(made: dict) -> list[str]:
    return [what for what, _, _, fine in bar.lines(made) if not fine]


def test_what_is_good_enough_meets_the_bar():
    assert missed(figures()) == []
    assert bar.met(figures())
    assert "**missed**" not in bar.table(figures())
    json.dumps(figures())


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"styles": 23}, "styles"),
        ({"one__noir__psnr": 23.9}, "PSNR to the styliser, mean"),
        ({"one__noir__psnr": 16.9}, "PSNR to the styliser, worst style (noir)"),
        ({"one__noir__told": 0.94}, "styles told by the classifier"),
        ({"one__noir__edge_f1": 0.59}, "edges kept, weakest of these (noir)"),
        ({"one__noir__flicker": 0.51}, "flicker of a still scene, mean"),
        ({"two__noir__psnr": 24.9}, "two steps (47,49) against one step (47), PSNR"),
        ({"two__noir__edge_f1": 0.69}, "two steps (47,49) against one step (47), edges F1"),
        ({"two__noir__told": 0.9}, "two steps (47,49) against one step (47), styles told"),
        ({"two__noir__flicker": 0.4}, "two steps (47,49) against one step (47), flicker"),
        ({"three__noir__psnr": 24.9}, "three steps (47,48,49) against one step (47), PSNR"),
        ({"four__noir__edge_f1": 0.69}, "four steps (94,96,97,98@100) against one step (47), edges F1"),
        ({"freer_four__noir__psnr": 24.9}, "four steps (46,47,48,49) against one step (46), PSNR"),
        ({"freer_one__noir__psnr": 26.1}, "four steps (46,47,48,49) against one step (46), PSNR"),
        ({"two__noir__psnr": 24.9}, "styles in which two steps (47,49) against one step (47) are further from the styliser"),
        ({"strength": [[1, 2.0], [2, 1.5], [3, 4.0]]}, "change by t-index"),
        ({"guidance": [[1, 2.0], [2, 2.0]]}, "change by guidance"),
        ({"negative": [[1, 2.0], [2, 1.0]]}, "change by negative prompt"),
        ({"faces__share": 0.89}, "faces found at index 32, 8 portraits"),
        ({"free_text": [{"prompt": "a", "shown": "noir", "sensible": False}] * 100}, "free text, sensible of 100"),
    ],
)
def test_what_falls_short_is_told(changed, what):
    made = figures(**changed)
    assert what in missed(made)
    assert not bar.met(made)
    assert f"| {what} |" in bar.table(made)


def test_edges_are_asked_of_the_styles_that_keep_them_only():
    made = figures(stylisers__noir__edge_f1=0.3, **{f"{steps}__noir__edge_f1": 0.2 for steps in ("one", "freer_one", *bar.MORE)})
    assert not [what for what in missed(made) if "edges" in what]


def test_a_quick_run_has_a_table_too():
    made = {name: figures()[name] for name in ("styles", "steps", "stylisers", "one", "freer_one", *bar.MORE)}
    for style in (made[name]["noir"] for name in ("stylisers", "one", "freer_one", *bar.MORE)):
        del style["told"]
    assert "| noir | 25.0 | 26.0 | 0.70 | 0.80 | 0.30 |  |" in bar.table(made)


def test_free_text_is_unheard_of_and_names_styles():
    assert len(PROMPTS) == len({prompt for prompt, _ in PROMPTS}) == 100
    phrases = {phrase for told in PHRASES.values() for phrase in told.split("|")}
    for prompt, sensible in PROMPTS:
        assert prompt not in phrases, prompt
        assert sensible and set(sensible.split()) <= set(STYLES), prompt
