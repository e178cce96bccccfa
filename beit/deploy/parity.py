"""Comparison of an exported graph with its model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from beit.deploy.runner import Runner

# B batch, K classes, H, W pixels

TOLERANCE = 1e-4
"""Largest difference of a result in float32, relative to the model's largest value (at least 1)."""
TOLERANCES = {"float32": TOLERANCE, "bfloat16": 0.1, "int8": 0.3}
"""The same by precision: rounding errors add up over the blocks, while a wrong graph differs by about 1."""

Reference = Callable[[np.ndarray], np.ndarray]
"""The model itself: uint8 images `[B, 3, H, W]` to probabilities (for "topk" all of them), features, or logits, which are
`[B, K, H, W]` for class maps; for "codes" the scores of the codes, `[B, K, h, w]`."""


def largest_difference(runner: Runner, reference: Reference, images: np.ndarray, batch: int = 0) -> float:
    """Largest difference between a graph and its model, relative to the model's largest value (at least 1).

    For numbers of classes or codes it is the difference of the model's scores between its own choice and that of the graph: 0 where
    they agree, and small for ties.

    Args:
        runner: the graph.
        reference: the model.
        images: uint8 `[B, 3, H, W]`.
        batch: images at a time; 0 for all.

    Raises:
        ValueError: the graph returns NaN, infinity, or another shape.
    """
    batch = batch or len(images)
    worst = 0.0
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        outputs = runner(part)
        for name, values in outputs.items():
            if not np.isfinite(values).all():
                raise ValueError(f"the exported graph returns NaN or infinite {name}")
        worst = max(worst, _COMPARE[runner.description.output](outputs, reference(part)))
    return worst


def agreement(runner: Runner, reference: Reference, images: np.ndarray) -> dict[str, float]:
    """How a graph of lower precision differs from its model.

    `largest` is the largest difference of its results (`largest_difference`), `same_class` the share of images, pixels
    or tokens whose best class or code is the model's (not for features).

    Args:
        runner: the graph.
        reference: the model.
        images: uint8 `[B, 3, H, W]`.
    """
    expected = reference(images)
    outputs = runner(images)
    largest = _COMPARE[runner.description.output](outputs, expected)
    found = {"largest": largest}
    first = {
        "logits": lambda: outputs["logits"].argmax(1),
        "probabilities": lambda: outputs["probabilities"].argmax(1),
        "topk": lambda: outputs["classes"][:, 0],
        "class_map": lambda: outputs["class_map"],
        "codes": lambda: outputs["codes"],
    }
    if runner.description.output in first:
        same = first[runner.description.output]() == expected.argmax(1)
        found["same_class"] = float(same.mean())
    return found


def _direct(name: str) -> Callable[[dict[str, np.ndarray], np.ndarray], float]:
    def compare(outputs: dict[str, np.ndarray], expected: np.ndarray) -> float:
        return relative_difference(outputs[name], expected)

    return compare


def _topk(outputs: dict[str, np.ndarray], probabilities: np.ndarray) -> float:
    best = -np.sort(-probabilities, axis=1)[:, : outputs["scores"].shape[1]]
    chosen = np.take_along_axis(probabilities, outputs["classes"].astype(np.int64), axis=1)
    return max(relative_difference(outputs["scores"], best), relative_difference(outputs["scores"], chosen))


def _chosen(name: str) -> Callable[[dict[str, np.ndarray], np.ndarray], float]:
    def compare(outputs: dict[str, np.ndarray], scores: np.ndarray) -> float:
        chosen = np.take_along_axis(scores, outputs[name].astype(np.int64)[:, None], axis=1)[:, 0]
        return relative_difference(chosen, scores.max(axis=1))

    return compare


def relative_difference(values: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference of two arrays, relative to the largest expected value (at least 1); NaN if one is not finite.

    Raises:
        ValueError: they have different shapes.
    """
    if values.shape != expected.shape:
        raise ValueError(
            f"the exported graph returns shape {list(values.shape)}, its model {list(expected.shape)}"
        )
    scale = max(1.0, float(np.abs(expected).max()))
    with np.errstate(invalid="ignore"):  # infinity - infinity
        return float(np.abs(values.astype(np.float64) - expected).max()) / scale


_COMPARE: dict[str, Callable[[dict[str, np.ndarray], np.ndarray], float]] = {
    "logits": _direct("logits"),
    "features": _direct("features"),
    "probabilities": _direct("probabilities"),
    "topk": _topk,
    "class_map": _chosen("class_map"),
    "codes": _chosen("codes"),
}
