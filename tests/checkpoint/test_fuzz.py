"""Trees of arrays as no publisher writes them, through the functions that take them: a value or one line of a known error.

Time and seed: see `tests.checkpoint.fuzzing`.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from beit.checkpoint.adapt import adapt
from beit.checkpoint.canonical import kind_of, missing_names, shapes_of
from beit.checkpoint.open import open_checkpoint
from beit.checkpoint.publishers import PUBLISHERS
from beit.checkpoint.qkv import fuse_qkv, split_qkv, split_qkv_bias
from beit.checkpoint.report import report_of
from beit.checkpoint.translate import Checkpoint, from_canonical
from beit.models.load import load_pretrained
from beit.predict.file_config import config_of_file
from tests.checkpoint import publishers
from tests.checkpoint.fuzzing import FEWEST, SECONDS, SEED, outcome, pick
from tests.tiny import tiny_beit

Tree = dict[Any, Any]

SHAPES: list[tuple[int, ...]] = [
    *((), (0,), (1,), (24,), (2, 3), (0, 24), (24, 0), (24, 7), (7, 7), (1, 1, 24), (1, 0, 24), (3, 4, 4)),
    *((24, 3, 4, 5), (0, 0, 0, 0), (1, 1_000_000), (0, 10**12)),
]
DTYPES: list[Any] = ["f2", "f8", "c8", "i1", "i8", "u2", "u8", "?", "O", "S3", "U2", "M8[s]", [("a", "f4")]]
PARTS = [
    *("999999999999", "999", "3", "00", "-1", "٣", "1" * 5000, "", "weight", "attn", "module"),
    *("\x1b[2J", "a\nb", "\x9b2J", "\u202e", "\ud800", "x" * 100_000, "🙂"),
]
KEYS: list[Any] = [
    "\x1b]0;title\x07",
    "line\nbreak",
    7,
    None,
    (1, 2),
    b"weight",
    "",
    "." * 1000,
    "module." * 1000,
]
VALUES: list[Any] = [None, True, -1, 10**400, float("nan"), "a\nb", [], [1], {}, {"x": 1}]
WRAPPERS = ["model", "state_dict", "model_ema", "weights", "meta", "\x1b[31m"]


def forms(rng: np.random.Generator) -> dict[str, tuple[Tree, bool]]:
    """Name -> a valid tree, and whether it is that of a teacher."""
    classifier, vqkd = publishers.unilm_classifier(rng), publishers.unilm_vqkd(rng)
    segmentation = publishers.unilm_segmentation(rng, side=4, patch=4)
    dino = publishers.unilm_encoder(rng, tables=False, positions=True)
    for i in range(2):
        q, v = (dino.pop(f"blocks.{i}.attn.{part}_bias") for part in "qv")
        dino[f"blocks.{i}.attn.qkv.bias"] = np.concatenate([q, q, v])
    trees: dict[str, Tree] = {
        "unilm": publishers.unilm_file(classifier),
        "unilm pre-training": publishers.unilm_file(publishers.unilm_mim(rng, version=2)),
        "unilm VQ-KD": {"model": vqkd},
        "unilm segmentation": {"state_dict": segmentation},
        "timm": classifier,
        "canonical": publishers.paddle_layout(classifier),
        "canonical segmentation": publishers.paddle_layout(segmentation),
        "paddlevit": publishers.paddlevit(classifier),
        "passl": publishers.passl(classifier),
        "paddleclas": publishers.paddleclas(classifier),
        "huggingface": publishers.huggingface(classifier),
        "huggingface segmentation": publishers.huggingface(segmentation, runtime=True),
        "openmmlab": publishers.openmmlab(classifier),
        "openmmlab VQ-KD": publishers.openmmlab_vqkd(vqkd),
        "DALL-E": publishers.dalle(rng),
    }
    return {name: (tree, False) for name, tree in trees.items()} | {"DINO": (dino, True)}


def state_of(tree: Tree) -> Tree:
    """The dictionary in a tree that holds arrays, or the tree."""
    inner = [value for value in tree.values() if isinstance(value, dict) and value]
    return max(
        [tree, *inner], key=lambda found: sum(isinstance(value, np.ndarray) for value in found.values())
    )


def mutated(tree: Tree, rng: np.random.Generator) -> Tree:
    """A copy with one to three changes of names, shapes, values and wrappers."""
    copied: Tree = {key: dict(value) if isinstance(value, dict) else value for key, value in tree.items()}
    for _ in range(int(rng.integers(1, 4))):
        state = state_of(copied)
        names = [name for name in state if isinstance(state[name], np.ndarray)]
        if not names:
            break
        name = pick(rng, names)
        array, parts = state[name], str(name).split(".")
        match int(rng.integers(13)):
            case 0:
                state[name] = np.zeros(pick(rng, SHAPES), array.dtype)
            case 1:
                state[name] = np.zeros(array.shape, np.dtype(pick(rng, DTYPES)))
            case 2:
                del state[name]
            case 3 | 4 as renames:
                parts[int(rng.integers(len(parts)))] = pick(rng, PARTS)
                state[".".join(parts)] = array
                if renames == 3:
                    state.pop(name, None)
            case 5:
                state[pick(rng, KEYS)] = array
            case 6:
                state[name] = pick(rng, VALUES)
            case 7:
                state[name] = (
                    np.concatenate([array, array], axis=int(rng.integers(array.ndim)))
                    if array.ndim
                    else array
                )
            case 8:
                state[name] = array.T
            case 9:
                state[name] = array[..., None]
            case 10:
                state[name] = state[pick(rng, names)]
            case 11:
                state[name] = np.full(array.shape, pick(rng, [np.nan, np.inf, 1e38]), "f4")
            case 12:
                copied = {pick(rng, WRAPPERS): copied}
    return copied


def steps(tree: Tree, is_teacher: bool, model: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What is done with a tree, by name; with what `open_checkpoint` returns only if it returns."""
    flat = {str(name): value for name, value in state_of(tree).items() if isinstance(value, np.ndarray)}
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    opened: list[Checkpoint] = []

    def report() -> str:
        state, info = opened[0]
        return str(report_of(info, *adapt(state, shapes, source_grid=info.architecture.grid_size)))

    yield "open_checkpoint", lambda: opened.append(open_checkpoint(tree, teacher=is_teacher))
    yield "load_pretrained", lambda: load_pretrained(model, tree)
    yield "kind_of", lambda: kind_of(shapes_of(flat))
    yield "missing_names", lambda: missing_names(flat, kind_of(shapes_of(flat)))
    yield "fuse_qkv", lambda: fuse_qkv(flat)
    yield "split_qkv", lambda: split_qkv(flat)
    yield "split_qkv_bias", lambda: split_qkv_bias(flat)
    yield "adapt", lambda: adapt(flat, shapes)
    if opened:
        state, info = opened[0]
        yield "report", report
        yield "config_of_file", lambda: config_of_file(opened[0], "file.pth")
        for publisher in PUBLISHERS:
            yield (
                f"as {publisher}",
                lambda to=publisher: from_canonical(state, to, info.architecture.grid_size),
            )


def test_altered_trees_give_a_value_or_one_line() -> None:
    rng = np.random.default_rng(SEED)
    valid = forms(rng)
    model = tiny_beit(side=4)
    outcomes: collections.Counter[str] = collections.Counter()
    end, trees = time.monotonic() + SECONDS, 0
    while trees < FEWEST or time.monotonic() < end:
        drawn = rng.bit_generator.state
        form = pick(rng, list(valid))
        tree, is_teacher = valid[form]
        trees += 1
        for step, do in steps(mutated(tree, rng), is_teacher, model):
            try:
                outcomes[f"{step}: {outcome(step, do)}"] += 1
            except Exception as error:
                pytest.fail(f"{step} of {form}: {type(error).__name__}: {error}; tree {trees}, {drawn}")
    print(trees, "trees", dict(sorted(outcomes.items())))
    assert outcomes["open_checkpoint: value"] and outcomes["open_checkpoint: CheckpointError"]
    assert outcomes["load_pretrained: value"] and outcomes["load_pretrained: ValueError"]
