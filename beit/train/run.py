"""One run on one rank, from config to metrics: device, task, weights, data, loop."""

from __future__ import annotations

import json
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import paddle
from yacs.config import CfgNode

from beit import cpu
from beit.checkpoint.report import LoadReport
from beit.config import dump, head_dim, image_hw, value_of
from beit.data.classes_of_data import with_classes_of_data
from beit.data.dataset import ImageDataset
from beit.data.loader import build_loader
from beit.data.sampler import TrainSampler, build_train_sampler
from beit.deploy.compiled import CompiledModel
from beit.deploy.engines import AUTO, describe
from beit.files import write_text
from beit.layers import fused_attention
from beit.logging import RunLog
from beit.metadata.class_names import format_class_names
from beit.metadata.files import RUN_CLASS_NAMES
from beit.optim.ema import Ema
from beit.optim.groups import describe_groups
from beit.optim.schedule import make_schedules, run_length, scaled_lr, warmup_length
from beit.parallel import ranks, sharding, watchdog
from beit.parallel.stop import stop_signals
from beit.schema import SCHEMA
from beit.tasks import TASKS, Task
from beit.tasks.task_keys import unread_keys
from beit.train.loop import evaluate, fit, write_report
from beit.train.output import output_folder, write_config
from beit.train.recipe_check import batch_problems, describe_top5, rate_problems
from beit.train.resume import LATEST, find_checkpoints, restore, save
from beit.train.run_data import training_data, validation_data, validation_loader
from beit.train.state import Training
from beit.train.teacher import load_teacher
from beit.version import VERSION
from beit.warning_lines import warnings_to

_NOT_RESULTS = ("count", "images_per_second")  # among the metrics of an evaluation


def run(config: CfgNode) -> dict[str, float]:
    """Train or evaluate on this rank; returns the metrics of the last evaluation.

    Writes into `config.SAVE`: `config.yaml` (resolved), `log.txt`, `metrics.jsonl`, the files of the dashboards that
    `LOGGERS` names (`visualdl/`), checkpoints (beit/train/resume.py), `card.md`, `class_names.txt` where the data set
    names its classes, and `eval.json` after an evaluation.

    Raises:
        ValueError, OSError: wrong config, data or checkpoint; the message says what to change.
        NonFiniteLossError, StoppedError: as `loop.fit`.
    """
    config = with_classes_of_data(config)
    device = ranks.choose_device(config.DEVICE)
    world_size = ranks.launched_world_size()
    sharding.check(config, device, world_size)
    name = f"rank {ranks.rank()} of {world_size}"
    limit = config.RANK_TIMEOUT if world_size > 1 else 0.0
    with watchdog.watch(limit, name=name, may_block=device == "gpu"):
        with watchdog.startup_timeout(limit, name=name):
            ranks.start(device)
        paddle.seed(config.SEED)  # the same initial weights on every rank
        with output_folder(config) as folder:
            return _run_in(folder, config, device)


def _run_in(folder: Path, config: CfgNode, device: str) -> dict[str, float]:
    log = RunLog(folder, ranks.rank())
    with closing(log), warnings_to(log.text_in_file), log.last_line():
        log.text(
            f"beit {VERSION}, Paddle {paddle.__version__}, {config.TASK} {config.MODEL.NAME}, "
            f"{ranks.world_size()} rank(s) on {device}, output in {folder}"
        )
        if device == "cpu":
            log.text(cpu.tune_cpu())
        log.add_dashboards(config.LOGGERS)
        log.config(dump(config), {key: value_of(config, key) for key in SCHEMA})
        for line in unread_keys(config):
            log.text(f"warning: {line}")
        task = TASKS[config.TASK](config)
        amp_dtype = _amp_dtype(config, device, log)
        if device == "gpu":
            log.text(fused_attention.describe(amp_dtype or "float32", head_dim(config)))
        return _evaluate(task, log, amp_dtype) if config.EVAL else _train(task, log, amp_dtype)


def _evaluate(task: Task, log: RunLog, amp_dtype: str | None) -> dict[str, float]:
    config = task.config
    if not config.MODEL.PRETRAINED:
        raise ValueError("-eval needs the weights to evaluate: -pretrained FILE")
    report = _load(task, log)
    if report.new:
        raise ValueError(
            f"{config.MODEL.PRETRAINED} cannot be evaluated, it lacks {', '.join(list(report.new)[:4])}: "
            f"{next(iter(report.new.values()))}; set the config to the checkpoint, or train first"
        )
    dataset = task.dataset("val")
    if dataset is None:
        raise ValueError(f"-eval: there are no validation images in DATA.DATA_PATH={config.DATA.DATA_PATH}")
    if amp_dtype is None:
        task.engine = _engine(task, config.PRECISION, log)
    elif config.PRECISION != "float32":
        raise ValueError(
            f"-precision={config.PRECISION} is for engines on CPUs, -amp for GPUs: leave one of them out"
        )
    with validation_loader(task, dataset, log) as validation:
        result = evaluate(task, *validation, amp_dtype=amp_dtype)
        engine_name = describe("paddle") if task.engine is None else task.engine.engine_name
        exact = None
        if config.PRECISION != "float32":
            task.engine = _engine(task, "float32", log)
            exact = evaluate(task, *validation, amp_dtype=None).metrics
    metrics = result.metrics
    log.scalars("eval", metrics, 0)
    write_report(task, result, log, 0)
    shown = (f"{name} {value:.{0 if name == 'count' else 4}f}" for name, value in metrics.items())
    log.text("evaluation: " + "  ".join(shown))
    if exact is not None:
        changed = {name: metrics[name] - value for name, value in exact.items() if name not in _NOT_RESULTS}
        changes = "  ".join(f"{name} {value:+.4f}" for name, value in changed.items())
        log.text(f"change from float32 to {config.PRECISION} on these images: {changes}")
    if ranks.rank() == 0:
        _write_results(config, metrics, exact, amp_dtype or config.PRECISION, engine_name)
    return metrics


def _write_results(
    config: CfgNode, metrics: dict[str, float], exact: dict[str, float] | None, precision: str, engine: str
) -> None:
    """Write `eval.json`: the metrics, and what they depend on; `exact` are those in float32 for another precision."""
    content = {
        "model": config.MODEL.NAME,
        "weights": config.MODEL.PRETRAINED,
        "data": str(config.DATA.DATA_PATH),
        "image_size": config.DATA.IMAGE_SIZE,
        "crop_pct": config.DATA.CROP_PCT,
        "resize": config.DATA.RESIZE,
        "center_crop": config.DATA.CENTER_CROP,
        "interpolation": config.DATA.INTERPOLATION,
        "crops": config.TEST.CROPS,
        "flip": config.TEST.FLIP,
        "mean": config.DATA.IMAGENET_MEAN,
        "std": config.DATA.IMAGENET_STD,
        "precision": precision,
        "engine": engine,
        **metrics,
    }
    if exact is not None:
        content["float32"] = exact
    write_text(Path(config.SAVE) / "eval.json", json.dumps(content, indent=2) + "\n")


def _engine(task: Task, precision: str, log: RunLog) -> CompiledModel | None:
    """The engine that computes the model's results in an evaluation; None for Paddle itself.

    Raises:
        ValueError: the task has no results that an engine could compute, or as `CompiledModel`.
    """
    name, size = task.config.ENGINE, image_hw(task.config)
    if precision == "float32" and (name == "paddle" or (name == AUTO and not task.uses_engine)):
        return None
    if not task.uses_engine:
        raise ValueError(
            f"TASK: {task.config.TASK} is evaluated by Paddle in float32 only: leave out -engine={name} and -precision"
        )
    task.eval()
    return CompiledModel(task.model, "logits", size=size, engine=name, precision=precision, log=log.text)


def _train(task: Task, log: RunLog, amp_dtype: str | None) -> dict[str, float]:
    config = task.config
    checkpoints = _load_or_find_checkpoints(task, log)
    task.freeze()
    dataset = training_data(task, log)
    val_dataset = validation_data(task, dataset, log)
    note = load_teacher(task, dataset.images.class_names)
    if note:
        log.text(note)
    sampler = build_train_sampler(config, len(dataset), world_size=ranks.world_size(), rank=ranks.rank())
    step = 0 if checkpoints else config.TRAIN.LAST_EPOCH * sampler.steps_per_epoch
    total_steps = run_length(config, sampler.steps_per_epoch)
    if step >= total_steps:
        raise ValueError(
            f"TRAIN.LAST_EPOCH = {config.TRAIN.LAST_EPOCH} (-last_epoch) leaves nothing to train: the run has "
            f"{total_steps / sampler.steps_per_epoch:g} epochs by TRAIN.NUM_EPOCHS and TRAIN.MAX_STEPS; lower the one or raise "
            "the others"
        )
    groups = task.param_groups()
    _describe(task, sampler, groups, log)
    with (
        build_loader(config, dataset) as loader,
        nullcontext() if val_dataset is None else validation_loader(task, val_dataset, log) as validation,
        stop_signals() as stop,
    ):
        parallel, optimizer = sharding.distribute(
            task, task.optimizer(groups), config.TRAIN.SHARDING_STAGE, amp_dtype
        )
        training = Training(
            config=config,
            task=task,
            parallel=parallel,
            optimizer=optimizer,
            scaler=paddle.amp.GradScaler(enable=amp_dtype == "float16"),
            ema=Ema(task.model, config.TRAIN.MODEL_EMA_DECAY) if config.TRAIN.MODEL_EMA else None,
            dataset=dataset,
            sampler=sampler,
            loader=loader,
            validation=validation,
            log=log,
            stop=stop,
            amp_dtype=amp_dtype,
            step=step,
        )
        _begin(training, checkpoints)
        return fit(training)


def _load_or_find_checkpoints(task: Task, log: RunLog) -> list[Path]:
    """The checkpoints to continue from; without any the weights of MODEL.PRETRAINED are loaded, if it is set."""
    config = task.config
    checkpoints = find_checkpoints(config)
    if not checkpoints and config.MODEL.RESUME:
        log.text(f"-resume auto: no checkpoint in {config.SAVE} yet")
    if checkpoints:
        log.text(f"initial weights: continue {checkpoints[0]}")
        task.resume_classes(checkpoints[0])
    elif config.MODEL.PRETRAINED:
        _load(task, log)
    else:
        log.text("initial weights: random (neither -resume nor -pretrained)")
    return checkpoints


def _begin(training: Training, checkpoints: list[Path]) -> None:
    """Continue from the checkpoints, if there are any, and describe the run in the output folder.

    The folder may hold the run that is continued: its config and class names stay until all ranks have accepted the
    checkpoint.
    """
    config, is_elsewhere = training.config, False
    if checkpoints:
        restore(training, checkpoints)
        is_elsewhere = bool(
            ranks.all_reduce_sum({"absent": not (Path(config.SAVE) / LATEST).exists()})["absent"]
        )
    write_config(config)
    _write_class_names(training.task, training.dataset)
    if is_elsewhere:  # every rank takes part in saving, whichever of them sees the file
        save(training, "latest")


def _load(task: Task, log: RunLog) -> LoadReport:
    report = task.load(task.config.MODEL.PRETRAINED)
    log.text(f"initial weights: {task.config.MODEL.PRETRAINED}\n{report}")
    for line in report.mismatches(task.config):
        log.text(f"warning: {line}")
    return report


def _write_class_names(task: Task, dataset: ImageDataset) -> None:
    names = dataset.images.class_names
    if names and ranks.rank() == 0:
        write_text(Path(task.config.SAVE) / RUN_CLASS_NAMES, format_class_names(names))


def _amp_dtype(config: CfgNode, device: str, log: RunLog) -> str | None:
    """Type of mixed precision: bfloat16 where the GPU has it, else float16 with loss scaling."""
    if not config.AMP:
        return None
    if device == "cpu":
        log.text(
            "warning: -amp changes nothing here, Paddle has mixed precision on GPUs only; this run is float32"
        )
        return None
    return "bfloat16" if paddle.amp.is_bfloat16_supported(device) else "float16"


def _describe(task: Task, sampler: TrainSampler, groups: list[dict[str, Any]], log: RunLog) -> None:
    """Log, before the first step, the data, the total batch against the recipe's, learning rates and groups."""
    config = task.config
    train, total = config.TRAIN, sampler.step_size
    log.text(
        f"training data: {sampler.length} images, {sampler.steps_per_epoch} steps an epoch, total batch {total} = "
        f"{ranks.world_size()} rank(s) x {config.DATA.BATCH_SIZE} images x {train.ACCUM_ITER} micro-batch(es)"
    )
    peak = train.BASE_LR
    if train.LINEAR_SCALED_LR:
        peak = scaled_lr(peak, train.LINEAR_SCALED_LR, total)
        log.text(
            f"learning rate scaled from {train.BASE_LR:g} at batch {train.LINEAR_SCALED_LR} to {peak:g} at {total}"
        )
    for line in batch_problems(config, total) + rate_problems(config, peak):
        log.text(f"warning: {line}")
    for line in describe_top5(config):
        log.note(line)
    schedules = make_schedules(config, sampler.steps_per_epoch, total)
    last = run_length(config, sampler.steps_per_epoch) - 1
    points = sorted({0, warmup_length(config, sampler.steps_per_epoch), last // 2, last})
    log.text("schedule: " + ", ".join(f"step {p}: lr {schedules(p)[0]:.3e}" for p in points if p <= last))
    log.text("parameter groups:\n" + describe_groups(groups))
    if ranks.world_size() == 1 and paddle.get_device() == "cpu" and cpu.cores() > 1:
        log.text(
            "one process on a CPU: beit train or main_multi_gpu.py with -nprocs auto trains with one rank per core, which is "
            "faster"
        )
