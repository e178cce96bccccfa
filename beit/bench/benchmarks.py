"""The benchmarks and their candidates: inference, training, pre-training, data, loading."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from yacs.config import CfgNode

from beit.beit import build_beit
from beit.bench.counting import count_multiply_adds
from beit.bench.expected import expected_rate, find_gpu
from beit.bench.files import (
    training_batch,
    write_containers,
    write_inputs,
    write_jpegs,
    write_weights,
)
from beit.bench.timing import GEMM, Benchmark, Candidate
from beit.config import get_config, image_hw
from beit.cpu import TUNED
from beit.deploy.engines import ENGINES, is_installed
from beit.models.mim import build_mim
from beit.models.tokenizer import build_vqkd

BFLOAT16_TOLERANCE = 0.25
"""Over the standard deviation of the logits: a bfloat16 has 8 significant bits, and errors add up over 12 to 24 blocks."""
_TRAIN_TOLERANCE = 2e-3
_UNTUNED: dict[str, str | None] = dict.fromkeys(TUNED)
_CANDIDATES, _BASELINES, _GRAPHS = "beit.bench.candidates", "beit.bench.baselines", "beit.bench.graphs"
_ANY = float("inf")
_DATA_IMAGES = 32
_LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Settings:
    """Options of the command line.

    Args:
        model: name of a config.
        batch: images per step.
        precision: "float32" or "bfloat16".
        threads: of each process.
        device: "cpu" or "gpu".
        folder: for weights, inputs and results.
        find: returns an interpreter that has the given modules, or None.
        paddlevit: folder of PaddleViT's BEiT; None leaves it out.
        images: folder with JPEG files; None for generated ones.
    """

    model: str
    batch: int
    precision: str
    threads: int
    device: str
    folder: Path
    find: Callable[[tuple[str, ...]], str | None]
    paddlevit: str | None = None
    images: str | None = None


def inference(settings: Settings) -> Iterator[Benchmark]:
    """Logits of a batch."""
    config = get_config(settings.model)
    paths = write_weights(config, settings.folder)
    on_cpu = settings.device == "cpu"  # exported graphs run on CPUs only
    engines = [name for name in ENGINES if name != "paddle" and is_installed(name)] if on_cpu else []
    onnx = bool(engines) and _has("onnx")
    height, width = image_hw(config)
    images = np.random.default_rng(0).standard_normal((settings.batch, 3, height, width), np.float32)
    precise = settings.precision == "float32"
    dtype = "" if precise else f", {settings.precision}"
    low = {} if precise else {"precision": settings.precision}
    tolerance = 1e-3 if precise else BFLOAT16_TOLERANCE
    own = [Candidate("beit", f"{_CANDIDATES}:infer")]
    if not precise and not on_cpu:  # Paddle has mixed precision on GPUs only
        own.append(Candidate(f"beit{dtype}", f"{_CANDIDATES}:infer", low, tolerance=tolerance))
    exported = f"{_CANDIDATES}:infer_exported"
    if on_cpu:
        options = {"engine": "paddle", "precision": settings.precision}
        own.append(Candidate(f"beit, exported, Paddle{dtype}", exported, options, tolerance=tolerance))
    if onnx and precise:
        own += [Candidate(f"beit, exported, {name}", exported, {"engine": name}) for name in engines]
        own.insert(
            0,
            Candidate(
                "beit", f"{_CANDIDATES}:infer", {"engine": "auto"}, {"BEIT_HOME": str(settings.folder)}
            ),
        )
        own[1] = replace(own[1], name="beit, model")
    timm, transformers = ("torch", "timm", "safetensors"), ("torch", "transformers")
    baselines = [
        _baseline(f"timm{dtype}", "timm_infer", low, timm, tolerance),
        _baseline(f"timm, torch.compile{dtype}", "timm_infer", {**low, "compile": True}, timm, tolerance),
    ]
    if precise:
        baselines += [
            _baseline("transformers, sdpa", "transformers_infer", {"attention": "sdpa"}, transformers),
            _baseline("transformers, eager", "transformers_infer", {"attention": "eager"}, transformers),
        ]
        if on_cpu:
            baselines += [
                Candidate(f"timm, {name}", f"{_GRAPHS}:{function}", {}, _UNTUNED, (*timm, "onnx", package))
                for name, function, package in (
                    ("OpenVINO", "openvino_infer", "openvino"),
                    ("onnxruntime", "onnxruntime_infer", "onnxruntime"),
                )
            ]
        if settings.paddlevit:
            untuned = {**_UNTUNED, "OMP_NUM_THREADS": None, "BEIT_TUNE_CPU": "0"}
            options = {"paddlevit": settings.paddlevit}
            baselines.append(
                Candidate("PaddleViT, Paddle's defaults", f"{_CANDIDATES}:infer_paddlevit", options, untuned)
            )
    yield Benchmark(
        f"inference, {config.MODEL.NAME}, batch {settings.batch}, {settings.precision}",
        (*own, *baselines, _machine()),
        _shared(settings, config)
        | paths
        | {"inputs": write_inputs({"images": images}, settings.folder / "inputs.npz")},
        units=settings.batch,
        multiply_adds=settings.batch * _forward(config),
        has_starts=True,
    )


def training(settings: Settings) -> Iterator[Benchmark]:
    """A full training step without random parts: no drop path, mixup, cutmix or erasing."""
    config = get_config(settings.model, _PLAIN)
    paths = write_weights(config, settings.folder)
    train = config.TRAIN
    low = {} if settings.precision == "float32" else {"precision": settings.precision}
    tolerance = _TRAIN_TOLERANCE if not low else BFLOAT16_TOLERANCE
    dtype = "" if not low else f", {settings.precision}"
    own = Candidate("beit", f"{_CANDIDATES}:train", {} if settings.device == "cpu" else low)
    can_divide = settings.device == "cpu" and settings.threads > 1 and settings.batch % settings.threads == 0
    ranked = [Candidate(f"beit, {settings.threads} ranks", "beit.bench.ranked:train")] if can_divide else []
    yield Benchmark(
        f"training, {config.MODEL.NAME}, batch {settings.batch}, {settings.precision}",
        (
            *ranked,
            own,
            Candidate(
                "beit, recomputed blocks", own.function, {"options": [*_PLAIN, "TRAIN.RECOMPUTE", True]}
            ),
            _baseline(f"timm{dtype}", "timm_train", low, ("torch", "timm", "safetensors"), tolerance),
            _machine(),
        ),
        _shared(settings, config)
        | paths
        | {
            "inputs": write_inputs(training_batch(config, settings.batch), settings.folder / "inputs.npz"),
            "options": _PLAIN,
            "lr": _LEARNING_RATE,
            "weight_decay": train.WEIGHT_DECAY,
            "layer_decay": train.LAYER_DECAY,
            "smoothing": train.SMOOTHING,
            "compared_steps": 3,
        },
        units=settings.batch,
        multiply_adds=3 * settings.batch * _forward(config),
        expected=_expected(config, settings),
    )


def pretraining(settings: Settings) -> Iterator[Benchmark]:
    """Training steps of BEiT, BEiT v2 and VQ-KD, and of fine-tuning; tokens and the teacher's features are given."""
    size = "large" if "large" in settings.model else "base" if "base" in settings.model else "tiny"
    suffix = "_pretrain" if size == "tiny" else "_pt1k"
    configs = {
        "fine-tuning": (settings.model, _PLAIN),
        "BEiT": (f"beit_{size}_patch16_224{suffix}", _STORED_TOKENS),
        "BEiT v2": (f"beitv2_{size}_patch16_224{suffix}", _STORED_TOKENS),
        "VQ-KD": ("vqkd_encoder_base_decoder_1x768x12_clip", _STORED_FEATURES),
    }
    if size != "base":  # the published tokenizers are all of the base size
        del configs["VQ-KD"]
    candidates, arithmetic = [], {}
    for number, (name, (path, options)) in enumerate(configs.items()):
        config = get_config(path, options)
        batch = training_batch(config, settings.batch)
        inputs = write_inputs(batch, settings.folder / f"inputs-{number}.npz")
        options_of = {"config": path, "options": options, "inputs": inputs, "average": False}
        candidates.append(Candidate(name, f"{_CANDIDATES}:train", options_of, tolerance=_ANY))
        arithmetic[name] = _forward(config, batch)
    yield Benchmark(
        f"pre-training steps, {size}, batch {settings.batch}",
        (*candidates, _machine()),
        {"device": settings.device, "threads": settings.threads, "lr": _LEARNING_RATE, "compared_steps": 1},
        units=settings.batch,
        arithmetic=arithmetic,
    )


def data(settings: Settings) -> Iterator[Benchmark]:
    """Image files to a normalized batch on one thread; of the augmented images, which are random, only the shape is compared."""
    config = get_config(settings.model)
    if settings.images:
        files = sorted(str(path) for path in Path(settings.images).rglob("*.[jJ][pP]*[gG]"))[:_DATA_IMAGES]
        if not files:
            raise ValueError(f"--images {settings.images}: no JPEG files in this folder")
    else:
        files = write_jpegs(settings.folder, _DATA_IMAGES)
    height, width = image_hw(config)
    shape = [len(files), 3, height, width]
    needs = ("torch", "torchvision", "timm")
    shared = _shared(settings, config) | {
        "files": files,
        "threads": 1,
        "shape": shape,
        "resized": int(height / config.DATA.CROP_PCT),
        "auto_augment": config.TRAIN.AUTO_AUGMENT,
        "erase_probability": config.TRAIN.RANDOM_ERASE_PROB,
    }
    yield Benchmark(
        "data, training transform, one thread",
        (
            Candidate("beit, worker", f"{_CANDIDATES}:data_train", {"worker": True}),
            Candidate("beit, worker and device", f"{_CANDIDATES}:data_train"),
            _baseline("timm and torchvision", "data_train", {}, needs),
            Candidate("decoding alone", f"{_CANDIDATES}:decode"),
        ),
        shared,
        units=len(files),
    )
    yield Benchmark(
        "data, evaluation transform, one thread",
        (
            Candidate("beit, worker", f"{_CANDIDATES}:data_eval", {"worker": True}),
            Candidate("beit, worker and device", f"{_CANDIDATES}:data_eval"),
            _baseline("torchvision", "data_eval", {}, needs),
            Candidate("decoding alone", f"{_CANDIDATES}:decode", tolerance=_ANY),
        ),
        shared,
        units=len(files),
    )


def loading(settings: Settings) -> Iterator[Benchmark]:
    """The same weights in each file format, read by this package and by the library of the format."""
    files = write_containers(settings.model, settings.folder, settings.find(("torch",)))
    own = Candidate("beit", f"{_CANDIDATES}:load")
    readers = {
        "pdparams": Candidate("paddle.load", f"{_CANDIDATES}:load_paddle"),
        "safetensors": _baseline("safetensors", "load_safetensors", {}, ("torch", "safetensors")),
        "torch zip": _baseline("torch.load", "load_torch", {}, ("torch",)),
        "torch legacy": _baseline("torch.load", "load_torch", {}, ("torch",)),
    }
    for container, file in files.items():
        yield Benchmark(
            f"loading, {get_config(settings.model).MODEL.NAME}, {container}",
            (own, readers[container]),
            {"file": str(file), "threads": settings.threads, "device": settings.device},
            units=file.stat().st_size / 1e9,
            unit="GB",
        )


MODES: dict[str, Callable[[Settings], Iterator[Benchmark]]] = {
    "infer": inference,
    "train": training,
    "pretrain": pretraining,
    "data": data,
    "load": loading,
}

_PLAIN = ["MODEL.DROPPATH", 0.0, "TRAIN.MIXUP_ALPHA", 0.0, "TRAIN.CUTMIX_ALPHA", 0.0]
_STORED_TOKENS = ["MODEL.DROPPATH", 0.0, "TOKENIZER.ALLOW_RANDOM", True]
_STORED_FEATURES = [
    "MODEL.DROPPATH",
    0.0,
    "TOKENIZER.TEACHER",
    "features",
    "TOKENIZER.TEACHER_PRETRAINED",
    ".",
    "TOKENIZER.KMEANS_INIT",
    False,
]


def _shared(settings: Settings, config: CfgNode) -> dict[str, Any]:
    keys = config.MODEL
    return {
        "config": settings.model,
        "batch": settings.batch,
        "threads": settings.threads,
        "device": settings.device,
        "folder": str(settings.folder),
        "size": image_hw(config)[0],
        "num_classes": keys.NUM_CLASSES,
        "mean": list(config.DATA.IMAGENET_MEAN),
        "std": list(config.DATA.IMAGENET_STD),
        "timm_name": "beit_base_patch16_224",
        "timm_arguments": {
            "patch_size": keys.PATCH_SIZE,
            "embed_dim": keys.EMBED_DIM,
            "depth": keys.DEPTH,
            "num_heads": keys.NUM_HEADS,
            "mlp_ratio": keys.MLP_RATIO,
            "init_values": keys.INIT_VALUES,
        },
    }


def _baseline(
    name: str,
    function: str,
    options: dict[str, Any],
    needs: tuple[str, ...],
    tolerance: float = 1e-3,
) -> Candidate:
    return Candidate(name, f"{_BASELINES}:{function}", options, _UNTUNED, needs, tolerance)


def _machine() -> Candidate:
    return Candidate(GEMM, f"{_CANDIDATES}:gemm", tolerance=_ANY)


def _forward(config: CfgNode, batch: dict[str, np.ndarray] | None = None) -> float:
    """Multiply-adds of one image forward; of VQ-KD both encoder and decoder."""
    images = paddle.zeros([1, 3, *image_hw(config)])
    if config.TASK == "classify":
        return count_multiply_adds(build_beit(config), images).under("A")
    assert batch is not None
    if config.TASK == "pretrain":
        return count_multiply_adds(build_mim(config), images, paddle.to_tensor(batch["mask"][:1])).under("A")
    model = build_vqkd(config)
    return count_multiply_adds(model, images, paddle.to_tensor(batch["target"][:1])).under("A")


def _expected(config: CfgNode, settings: Settings) -> float | None:
    """Images a second that this GPU should train, where its peaks are known."""
    if settings.device != "gpu" or settings.precision != "bfloat16":
        return None
    gpu = find_gpu(paddle.device.cuda.get_device_name())
    if gpu is None:
        return None
    parameters = sum(parameter.size for parameter in build_beit(config).parameters())
    return expected_rate(config, gpu, forward=_forward(config), parameters=parameters, batch=settings.batch)


def _has(*modules: str) -> bool:
    return all(find_spec(module) is not None for module in modules)
