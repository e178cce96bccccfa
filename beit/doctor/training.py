"""A training step of each task, and how fast images are loaded and trained on; with small generated data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from PIL import Image
from yacs.config import CfgNode

from beit.config import get_config
from beit.cpu import cores
from beit.data.features import build_tokenizer_dataset, row_name
from beit.data.loader import Loader
from beit.data.sampler import build_train_sampler
from beit.data.scenes import write_scenes
from beit.doctor.findings import Finding
from beit.models.dalle import DalleTokenizer
from beit.models.tokenizer import build_tokenizer, tokenizer_image_size
from beit.tasks import TASKS
from beit.train.step_check import StepReport, dry_step

_TASKS = {
    "classify": "beit_base_patch16_224_pt22k_ft1k",
    "probe": "probe/beit_base_patch16_224_linear",
    "pretrain, BEiT": "pretrain/beit_base_patch16_224_pt1k",
    "pretrain, BEiT v2": "pretrain/beitv2_base_patch16_224_pt1k",
    "tokenizer": "tokenizer/vqkd_encoder_base_decoder_3x768x12_clip",
    "segment": "segment/upernet_beit_base_patch16_512_pt22k_ft22k",
}
"""Task -> config whose step is tried: on a GPU at its size, on a CPU with the options of `_SMALL`."""

_SMALL: dict[str, Any] = {
    "DATA.IMAGE_SIZE": 32, "MODEL.PATCH_SIZE": 8, "MODEL.EMBED_DIM": 48, "MODEL.DEPTH": 4, "MODEL.NUM_HEADS": 3,
    "TOKENIZER.NUM_CODES": 32, "TOKENIZER.PATCH_SIZE": 8, "TOKENIZER.EMBED_DIM": 48, "TOKENIZER.DEPTH": 2,
    "TOKENIZER.NUM_HEADS": 3, "TOKENIZER.DECODER_DEPTH": 1, "TOKENIZER.TEACHER_DIM": 8, "TOKENIZER.DALLE_WIDTH": 8,
    "TOKENIZER.DALLE_CODE_WIDTH": 8,
}  # fmt: skip
_SMALL_OF: dict[str, dict[str, Any]] = {
    "pretrain, BEiT": {"TOKENIZER.PATCH_SIZE": 16},
    "pretrain, BEiT v2": {"MODEL.EARLY_LAYERS": 2},
    "segment": {
        "DATA.RESIZE_LIMITS": [64, 48],
        "MODEL.OUT_INDICES": [0, 1, 2, 3],
        "MODEL.AUXILIARY_CHANNELS": 8,
    },
}
_TRAINED = "quantize.embedding.initted"
_BATCH = {"gpu": 16, "cpu": 4}
_IMAGES, _SIZE = 64, (500, 375)  # of ImageNet's usual size
_GIB = 2**30


def write_data(folder: Path) -> Path:
    """Write JPEG files of two classes and drawn scenes with masks into a folder; returns it."""
    rng = np.random.default_rng(0)
    for split, count in (("train", _IMAGES), ("val", 8)):
        for number in range(count):
            path = folder / "classes" / split / "ab"[number % 2] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
            coarse.resize(_SIZE, Image.Resampling.BICUBIC).save(path, quality=90)
    write_scenes(folder / "scenes", images={"train": _BATCH["gpu"], "val": 2})
    return folder


def steps(folder: Path, device: str) -> Iterator[Finding]:
    """Two optimizer steps of each task; time and memory are those of the second.

    Args:
        folder: of `write_data`.
        device: "gpu" or "cpu".
    """
    for name in _TASKS:
        config = _config(name, folder, device)
        if device == "gpu":
            paddle.device.cuda.empty_cache()
            paddle.device.cuda.reset_max_memory_allocated()
        task = TASKS[config.TASK](config)
        dataset = task.dataset("train")
        assert dataset is not None  # every task has training data
        yield Finding(
            "steps",
            name,
            _text(dry_step(task, dataset, seconds=0.0), min(config.DATA.BATCH_SIZE, len(dataset))),
        )


def _text(step: StepReport, batch: int) -> str:
    return (
        f"{batch} images in {1000 * step.seconds:.0f} ms, {batch / step.seconds:.1f} images/s, loss {step.loss:.4f}, "
        f"peak {step.peak_bytes / _GIB:.2f} GiB ({step.where})"
    )


def loading(folder: Path) -> Iterator[Finding]:
    """Images that the data workers of fine-tuning decode and augment in a second.

    Args:
        folder: of `write_data`.
    """
    config = get_config(_TASKS["classify"], [*_data(folder), "DATA.BATCH_SIZE", 16])
    task = TASKS["classify"](config)
    dataset = task.dataset("train")
    assert dataset is not None
    workers = max(1, min(cores(), 8))
    sampler = build_train_sampler(config, len(dataset))
    with Loader(dataset, num_workers=workers) as loader:
        for _ in loader(chain.from_iterable(sampler.batches(0))):  # the workers start
            pass
        begin, count = time.perf_counter(), 0
        for batch in loader(chain.from_iterable(sampler.batches(1))):
            count += len(batch["image"])
        rate = count / (time.perf_counter() - begin)
    value = f"{rate:.0f} images/s with {workers} workers ({_SIZE[0]}x{_SIZE[1]} JPEG to 224x224)"
    yield Finding("loader", "fine-tuning", value)


def _data(folder: Path) -> list[Any]:
    return ["DATA.DATASET", "folder", "DATA.DATA_PATH", str(folder / "classes"), "MODEL.NUM_CLASSES", 2]


def _config(name: str, folder: Path, device: str) -> CfgNode:
    """The config of a task, with generated data and random weights of its tokenizer or features of its teacher."""
    options = {
        "DEVICE": device,
        "DATA.BATCH_SIZE": _BATCH[device],
        "DATA.NUM_WORKERS": 0,
        "SAVE": str(folder / "run"),
    }
    small = _SMALL | _SMALL_OF.get(name, {}) if device == "cpu" else {}
    given = [item for pair in (options | small).items() for item in pair]
    if name == "segment":
        scenes = [
            "DATA.DATASET",
            "image_mask",
            "DATA.DATA_PATH",
            str(folder / "scenes"),
            "MODEL.NUM_CLASSES",
            5,
        ]
        return get_config(_TASKS[name], [*given, *scenes])
    config = get_config(_TASKS[name], [*given, *_data(folder)])
    if config.TASK == "pretrain":
        file = folder / "tokenizer.pdparams"
        tokenizer = build_tokenizer(config)
        network = tokenizer.encoder if isinstance(tokenizer, DalleTokenizer) else tokenizer
        state = dict(network.state_dict())
        if _TRAINED in state:  # else the codebook of a VQ-KD counts as untrained, and is refused
            state[_TRAINED] = paddle.ones_like(state[_TRAINED])
        paddle.save(state, str(file))
        return get_config(_TASKS[name], [*given, *_data(folder), "TOKENIZER.PRETRAINED", str(file)])
    if config.TASK == "tokenizer":
        features = [
            "TOKENIZER.TEACHER",
            "features",
            "TOKENIZER.TEACHER_PRETRAINED",
            str(_write_features(config, folder)),
        ]
        return get_config(_TASKS[name], [*given, *_data(folder), *features])
    return config


def _write_features(config: CfgNode, folder: Path) -> Path:
    """Random features of a teacher for the images of both splits; the folder that has them."""
    rng = np.random.default_rng(0)
    height, width = (side // config.TOKENIZER.PATCH_SIZE for side in tokenizer_image_size(config))
    for split in ("train", "val"):
        dataset = build_tokenizer_dataset(config, split)
        assert dataset is not None  # `write_data` wrote images of both
        shape = (len(dataset), height * width, config.TOKENIZER.TEACHER_DIM)
        np.save(folder / f"{split}.npy", rng.standard_normal(shape).astype(np.float16))
        names = (row_name(dataset.images, index) + b"\n" for index in range(len(dataset)))
        (folder / f"{split}.txt").write_bytes(b"".join(names))
    return folder
