"""The work as this package and PaddleViT do it: each function builds a step for `beit.bench.worker`.

`work` is the specification of the benchmark with the options of the candidate.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import paddle
from PIL import Image

from beit.bench.files import write_export
from beit.bench.worker import Step, read_once
from beit.checkpoint.files import read
from beit.config import get_config
from beit.cpu import tune_cpu
from beit.data.batch_transforms import erase, normalize, to_device
from beit.data.dataset import ClassificationDataset, ImageDataset
from beit.data.image_list import ImageList
from beit.data.loader import collate
from beit.data.model_input import build_eval_transform
from beit.data.sampler import Sample
from beit.data.transforms import build_train_transform
from beit.deploy.compiled import compiled
from beit.deploy.engines import ENGINES
from beit.optim.ema import Ema
from beit.parallel.sharding import distribute
from beit.predict.resolve import load_model
from beit.tasks import TASKS
from beit.train.loop import autocast, train_step
from beit.train.state import TrainState

_GEMM_SHAPES = ((2048, 2048, 2048), (1576, 768, 3072), (1576, 3072, 768))
"""Rows, inner size, columns; the last two are the products of the MLP of base 224 at batch 8."""
_EMA_DECAY = 0.9999


def gemm(work: Mapping[str, Any]) -> Step:
    """A float32 matrix product, of the fastest of `_GEMM_SHAPES`; the result is the number of its multiply-adds."""
    _start(work)
    import time

    def seconds(shape: tuple[int, int, int]) -> float:
        left, right = paddle.randn(shape[:2]), paddle.randn(shape[1:])
        paddle.matmul(left, right)
        begin = time.perf_counter()
        for _ in range(5):
            product = paddle.matmul(left, right)
        product.numpy()
        return (time.perf_counter() - begin) / float(np.prod(shape))

    shape = min(_GEMM_SHAPES, key=seconds)
    left, right = paddle.randn(shape[:2]), paddle.randn(shape[1:])

    def step() -> dict[str, np.ndarray]:
        paddle.matmul(left, right).numpy()
        return {"multiply_adds": np.asarray(float(np.prod(shape)))}

    return step


def infer(work: Mapping[str, Any]) -> Step:
    """Logits of a batch, as `evaluate` and `predict` compute them, with their `engine` (default: the model itself).

    With `precision` "bfloat16" in mixed precision.
    """
    _start(work)
    model = load_model(work["weights"], config=get_config(work["config"]))
    images = _tensor(work)
    amp_dtype = "bfloat16" if work.get("precision") == "bfloat16" else None
    size = (images.shape[2], images.shape[3])
    logits = compiled(model, "logits", size=size, engine=work.get("engine", "paddle"))

    def step() -> np.ndarray:
        with autocast(amp_dtype):
            return logits(images).astype("float32").numpy()

    return step


def infer_exported(work: Mapping[str, Any]) -> Step:
    """Logits of a batch from an exported graph in the engine `engine`; the first process writes the graph."""
    target = Path(work["folder"]) / "graph" / "model"
    kind = ENGINES[work["engine"]]
    if not target.with_suffix(kind.suffixes[0]).is_file():
        write_export(get_config(work["config"]), work["weights"], target, work["engine"])
    engine = kind(target, work.get("precision", "float32"), work["threads"], "classify")
    images = _inputs(work)["images"]
    return lambda: engine(images)[0]


def infer_paddlevit(work: Mapping[str, Any]) -> Step:
    """Logits of a batch by PaddleViT's code; `paddlevit` is its folder with `beit.py` and `config.py`."""
    paddle.set_device(work["device"])
    folder = Path(work["paddlevit"])
    sys.path.insert(0, str(folder))
    name = Path(str(work["config"])).stem
    config = _file_module(folder / "config.py").get_config(str(folder / "configs" / f"{name}.yaml"))
    model = _file_module(folder / "beit.py").build_beit(config)
    model.set_state_dict(paddle.load(work["weights"]))
    model.eval()
    images = _tensor(work)

    @paddle.no_grad()
    def step() -> np.ndarray:
        return model(images).numpy()

    return step


def train(work: Mapping[str, Any], part: slice = slice(None)) -> Step:
    """A full step of a task: forward, backward, gradient norm, AdamW, moving average; the results are the first losses.

    A rank passes its `part` of the batch.
    """
    _start(work)
    state = _train_state(work)
    inputs = {name: array[part] for name, array in _inputs(work).items()}
    batches = (to_device(state.task.prepare(batch)) for batch in itertools.repeat(inputs))
    losses: list[float] = []

    def step() -> dict[str, np.ndarray]:
        micro_losses, _ = train_step(state, batches, work["lr"], state.config.TRAIN.WEIGHT_DECAY)
        state.step += 1
        if work["device"] != "cpu":
            paddle.device.synchronize()
        if len(losses) < work["compared_steps"]:
            losses.append(float(micro_losses[0]["loss"]))
            if len(losses) < work["compared_steps"]:
                return step()
        return {"losses": np.asarray(losses)}

    return step


def load(work: Mapping[str, Any]) -> Step:
    """Read a checkpoint with this package; the results are the sums of the tensors."""
    return read_once(lambda: read(work["file"]).tree)


def load_paddle(work: Mapping[str, Any]) -> Step:
    """Read a checkpoint with `paddle.load` into arrays; the results are the sums of the tensors."""
    paddle.set_device("cpu")
    return read_once(lambda: paddle.load(work["file"], return_numpy=True))


def data_train(work: Mapping[str, Any]) -> Step:
    """Image files to an augmented training batch on one thread.

    With `worker` it is the part of a data worker, up to 8-bit pixels; without it also erasing and normalization, which
    training does on the device.
    """
    _start(work)
    config = get_config(work["config"])
    dataset = _dataset(work, build_train_transform(config))

    def step() -> np.ndarray:
        batch = collate([dataset[sample] for sample in _samples(dataset)])
        if work.get("worker"):
            return np.asarray(batch["image"].shape)
        images = normalize(
            paddle.to_tensor(batch["image"]), config.DATA.IMAGENET_MEAN, config.DATA.IMAGENET_STD
        )
        images = erase(images, paddle.to_tensor(batch["erase"]), config.TRAIN.RANDOM_ERASE_MODE)
        return np.asarray(images.shape)

    return step


def data_eval(work: Mapping[str, Any]) -> Step:
    """Image files to a normalized evaluation batch on one thread; with `worker` only the first step is normalized."""
    _start(work)
    config = get_config(work["config"])
    dataset = _dataset(work, build_eval_transform(config))
    compared: list[np.ndarray] = []

    def step() -> np.ndarray:
        batch = collate([dataset[sample] for sample in _samples(dataset)])
        if not compared or not work.get("worker"):
            images = paddle.to_tensor(batch["image"])
            compared[:] = [normalize(images, config.DATA.IMAGENET_MEAN, config.DATA.IMAGENET_STD).numpy()]
        return compared[0]

    return step


def decode(work: Mapping[str, Any]) -> Step:
    """Decode image files and nothing else: the lower bound of the time of a data pipeline."""

    def step() -> np.ndarray:
        for file in work["files"]:
            with Image.open(file) as image:
                image.convert("RGB")
        return np.asarray(work["shape"])

    return step


def _start(work: Mapping[str, Any]) -> None:
    paddle.set_device(work["device"])
    if work["device"] == "cpu":
        tune_cpu()


def _inputs(work: Mapping[str, Any]) -> dict[str, np.ndarray]:
    with np.load(work["inputs"]) as file:
        return {name: file[name] for name in file.files}


def _tensor(work: Mapping[str, Any]) -> paddle.Tensor:
    return paddle.to_tensor(_inputs(work)["images"])


def _train_state(work: Mapping[str, Any]) -> TrainState:
    config = get_config(work["config"], work["options"])
    task = TASKS[config.TASK](config)
    if work.get("weights"):
        task.load(work["weights"])
    task.train()
    parallel, optimizer = distribute(task, task.optimizer(task.param_groups()), 0, None)
    return TrainState(
        config=config,
        task=task,
        parallel=parallel,
        optimizer=optimizer,
        scaler=paddle.amp.GradScaler(enable=False),
        ema=Ema(task.model, _EMA_DECAY) if work.get("average", True) else None,
        amp_dtype="bfloat16" if work.get("precision") == "bfloat16" else None,
    )


def _dataset(work: Mapping[str, Any], transform: Any) -> ImageDataset:
    return ClassificationDataset(ImageList.from_names(Path(), work["files"]), transform, seed=0)


def _samples(dataset: ImageDataset) -> list[Sample]:
    return [Sample(index, index) for index in range(len(dataset))]


def _file_module(file: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(f"paddlevit_{file.stem}", file)
    if specification is None or specification.loader is None:
        raise ImportError(f"{file} is not a Python file")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module
