"""A run from Python: `beit.train` and `beit.evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from beit.config import get_config
from beit.flags import keyword_options, refuse_resume
from beit.parallel import ranks
from beit.parallel.signals import EXIT_STOPPED, restored_handlers
from beit.predict.resolve import ConfigSource, config_of
from beit.predict.run_figures import read_curves
from beit.train.entry import launch_ranks, num_ranks
from beit.train.resume import BEST, MODEL
from beit.train.run import run
from beit.train.state import RanksFailedError, StoppedError


@dataclass(frozen=True)
class RunResult:
    """What a run left behind.

    Args:
        metrics: of the last evaluation, e.g. `top1` in percent; empty if there was none.
        output: output folder, which has log.txt, metrics.jsonl and config.yaml; `beit.load_predictor` takes it.
        weights: the final weights; after an evaluation the evaluated ones.
        best: the weights with the best metric; None after an evaluation, or without validation data.
    """

    metrics: dict[str, float]
    output: Path
    weights: Path
    best: Path | None

    def __str__(self) -> str:
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in self.metrics.items()) or "no evaluation"
        return f"{self.output}: {numbers}"


def train(
    config: str | Path | CfgNode,
    data: str | Path | None = None,
    output: str | Path | None = None,
    **options: Any,
) -> RunResult:
    """Train by a config, as `beit train` does; returns the metrics of the last evaluation and where the weights are.

    One process trains, on one GPU or on the CPU, unless `nprocs` starts more. Then the calling script needs
    `if __name__ == "__main__":`, because every rank imports it.

    Examples:
        >>> result = beit.train("demo_digits", data="digits", output="output/digits", device="cpu", num_epochs=2)
        >>> result.metrics["top1"], result.weights

    Args:
        config: name or file of a config, or a tree of `get_config`.
        data: folder of the data; None for that of the config.
        output: folder for logs and checkpoints; None for that of the config.
        options: flags of the command line (`batch_size=32`, `pretrained="weights.pth"`, `dataset="folder"`), and config
            keys in lower case (`num_epochs=20`), with their section where several have that name
            (`model__embed_dim=192`).

    Raises:
        ValueError, FileNotFoundError: unknown option; wrong config, data or checkpoint; the message says what to change.
        StoppedError: SIGTERM or Ctrl-C stopped the run; `resume="auto"` continues it.
        RanksFailedError: a rank of several failed; its messages are on stderr. It is a `RuntimeError`.
    """
    if isinstance(config, str | Path):
        config = get_config(config)
    tree = config_of(config, **_given(data, output), **options | {"eval": False})
    metrics = _run(tree, "val")
    folder = Path(tree.SAVE)
    return RunResult(metrics, folder, folder / MODEL, folder / BEST if (folder / BEST).is_file() else None)


def evaluate(
    config: ConfigSource,
    data: str | Path | None = None,
    output: str | Path | None = None,
    **options: Any,
) -> RunResult:
    """Evaluate weights on the validation data, as `beit evaluate` does; returns the metrics and where they are written.

    Examples:
        >>> beit.evaluate("output/digits", data="digits").metrics["top1"]
        >>> beit.evaluate("beit_base_patch16_224", data="imagenet", pretrained="beit_base_patch16_224.pdparams")

    Args:
        config: output folder of a run, whose config and weights are taken; or a config as for `train`, with
            `pretrained`.
        data: folder of the data; None for that of the config.
        output: folder for eval.json and logs; None for that of the config, which is the folder of the run.
        options: as for `train`.

    Raises:
        ValueError, FileNotFoundError: unknown option; wrong config, data or weights; the message says what to change.
        RanksFailedError: a rank of several failed; its messages are on stderr. It is a `RuntimeError`.
    """
    if "batch_size" in options:  # as on the command line
        options.setdefault("batch_size_eval", options["batch_size"])
    tree = config_of(config, **_given(data, output), **options | {"eval": True})
    refuse_resume(tree, keyword_options(options))
    metrics = _run(tree, "eval")
    return RunResult(metrics, Path(tree.SAVE), Path(tree.MODEL.PRETRAINED), None)


def _given(data: str | Path | None, output: str | Path | None) -> dict[str, str | Path]:
    return {name: value for name, value in (("data_path", data), ("output", output)) if value is not None}


def _run(config: CfgNode, tag: str) -> dict[str, float]:
    """Run in this process, or in several; the metrics of the last evaluation, logged with the tag."""
    device = ranks.choose_device(config.DEVICE)
    world_size = 1 if config.NPROCS is None else num_ranks(config.NPROCS, device)
    if world_size == 1:
        with restored_handlers():  # a run that was stopped leaves its own, for repeated signals of launchers
            return run(config)
    status = launch_ranks(config, device, world_size)
    if status == EXIT_STOPPED:
        raise StoppedError(f'stopped; resume="auto" continues the run in {config.SAVE}')
    if status:
        raise RanksFailedError(status)
    curves = read_curves(Path(config.SAVE) / "metrics.jsonl")
    logged = {
        name.removeprefix(f"{tag}/"): points for name, points in curves.items() if name.startswith(f"{tag}/")
    }
    return {name: points[max(points)] for name, points in logged.items()}
