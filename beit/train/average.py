"""Averages of checkpoints, with the metric of each checkpoint and of the average."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from yacs.config import CfgNode

from beit.checkpoint.average import mean_checkpoint
from beit.checkpoint.convert import convert, refuse_replacing, require_target
from beit.checkpoint.files import read_checkpoint
from beit.config import get_config
from beit.metadata.files import RUN_CONFIG
from beit.predict.resolve import ConfigSource, config_of
from beit.predict.run_figures import read_curves
from beit.tasks import TASKS
from beit.train.api import evaluate
from beit.train.resume import kept_epochs
from beit.zoo import path_of


class Average(NamedTuple):
    """The checkpoints that were averaged, and the metric by checkpoint and of the average; None if not measured."""

    used: tuple[Path, ...]
    scores: dict[Path, float]
    score: float | None


def average(
    sources: str | Path | Sequence[str | Path],
    target: str | Path,
    *,
    last: int | None = None,
    best: int | None = None,
    greedy: bool = False,
    measure: bool = False,
    config: ConfigSource | None = None,
    **options: Any,
) -> Average:
    """Write the average of checkpoints; returns which were used, and their metrics if `measure` or `greedy` is set.

    The greedy soup starts with the best checkpoint and adds the others from the best to the worst, each only if the
    average does not become worse (arXiv 2203.05482, recipe 1).

    Examples:
        >>> beit.average("output/run", "average.pdparams", last=3, measure=True).score

    Args:
        sources: files, folders or published names; or, with `last` or `best`, the output folder of a run.
        target: `.pdparams` or `.safetensors` file.
        last: number of epochs to average: the last ones that the run keeps (KEEP_LAST).
        best: number of epochs to average: the kept ones with the best metrics of the evaluations during training.
        greedy: choose the checkpoints on the validation images; else all are averaged.
        measure: evaluate each checkpoint and the average.
        config: of the evaluation, as in `beit.evaluate`; None for the run folder that holds the first file.
        options: of the evaluation, as in `beit.evaluate`, such as `data_path`.

    Raises:
        ValueError: the checkpoints are not of one model; the run keeps fewer, or did not evaluate them; there is no
            config; the target has another ending, is also read or was written by a run; otherwise as `beit.evaluate`.
        OSError: the target cannot be written.
    """
    require_target(target)
    paths = _files(sources, last, best)
    refuse_replacing(target, paths)
    used, scores, score = paths, {}, None
    if measure or greedy:
        source = _config_of_run(paths[0]) if config is None else config
        with TemporaryDirectory() as folder:

            def measured(members: list[Path]) -> float:
                trial = Path(folder) / "average.pdparams"
                convert(mean_checkpoint(members), trial)
                return _score(source, trial, folder, options)

            scores = {path: _score(source, path, folder, options) for path in paths}
            used, score = _greedy(scores, measured) if greedy else (paths, measured(paths))
    convert(mean_checkpoint(used), target)
    return Average(tuple(used), scores, score)


def _greedy(scores: dict[Path, float], measured: Callable[[list[Path]], float]) -> tuple[list[Path], float]:
    """The members of the greedy soup, and its score."""
    ranked = sorted(scores, key=lambda path: -scores[path])
    used, score = ranked[:1], scores[ranked[0]]
    for path in ranked[1:]:
        found = measured([*used, path])
        if found >= score:
            used, score = [*used, path], found
    return used, score


def _files(sources: str | Path | Sequence[str | Path], last: int | None, best: int | None) -> list[Path]:
    """The files that `last` or `best` choose in a run folder, or the sources themselves."""
    if last is None and best is None:
        given = [sources] if isinstance(sources, str | Path) else sources
        if len(given) < 2:
            raise ValueError(
                f"an average needs two checkpoints or more, got {len(given)}; of a run folder choose its last or best epochs"
            )
        return [path_of(source) for source in given]
    if not isinstance(sources, str | Path) or (last is not None and best is not None):
        raise ValueError("name one run folder, and the number of its last or of its best epochs")
    count, run = int(last or best or 0), Path(sources)
    kept = kept_epochs(run)
    if not 1 <= count <= len(kept):
        raise ValueError(
            f"{count} epochs are asked for, {run} keeps {len(kept)}; KEEP_LAST sets how many a run keeps"
        )
    return kept[-count:] if last is not None else _best(run, kept)[:count]


def _best(run: Path, paths: list[Path]) -> list[Path]:
    """The checkpoints of epochs by the metrics of the evaluations during training, the best first."""
    curves = read_curves(run / "metrics.jsonl")
    measured = {tag.removeprefix("val/"): curve for tag, curve in curves.items() if tag.startswith("val/")}
    metric_of = _selection(get_config(run / RUN_CONFIG))
    scores = {}
    for path in paths:
        step = _step(path)
        metrics = {name: curve[step] for name, curve in measured.items() if step in curve}
        if not metrics:
            raise ValueError(
                f"{path} was not evaluated during training: set VALIDATE_FREQ so that it divides SAVE_FREQ, or choose "
                "the last epochs, or a greedy average of the files, which evaluates them"
            )
        scores[path] = metric_of(metrics)
    return sorted(paths, key=lambda path: -scores[path])


def _step(path: Path) -> int:
    """The step after which a run wrote a checkpoint."""
    state = read_checkpoint(path)
    step = state.get("step") if isinstance(state, Mapping) else None
    if not isinstance(step, int):
        raise ValueError(
            f"{path} has no 'step', which the checkpoints of a run have; move it to another folder, or name the files to "
            "average"
        )
    return step


def _config_of_run(path: Path) -> Path:
    if not (path.parent / RUN_CONFIG).is_file():
        raise ValueError(f"there is no {RUN_CONFIG} beside {path}: name the config of the evaluation")
    return path.parent / RUN_CONFIG


def _selection(config: CfgNode) -> Callable[[Mapping[str, float]], float]:
    """The metric that selects the best checkpoint."""
    return TASKS[config.TASK](config).selection_metric


def _score(config: ConfigSource, weights: Path, folder: str, options: dict[str, Any]) -> float:
    """The metric that selects the best checkpoint, of an evaluation of the weights."""
    metrics = evaluate(config, output=folder, pretrained=str(weights), **options).metrics
    return float(_selection(config_of(config))(metrics))
