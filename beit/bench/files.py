"""Files of the benchmarks: the same weights in the format of each library, exported graphs, inputs, images."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import paddle
from PIL import Image, ImageDraw, ImageFilter
from yacs.config import CfgNode

from beit.beit import Beit, build_beit
from beit.bench.worker import save_arrays
from beit.checkpoint.convert import convert
from beit.checkpoint.files import write
from beit.config import get_config, image_hw
from beit.deploy.graph import write_graph, write_onnx
from beit.deploy.network import ExportedNetwork
from beit.predict.resolve import load_model

JPEG_SIZE = (500, 375)
"""Width and height of a typical image of ImageNet."""
_SPREAD = 0.02  # of the noise on parameters that start as constants: equal values would hide a wrong mapping of names


def write_weights(config: CfgNode, folder: Path, *, baselines: bool = True) -> dict[str, str]:
    """Write random weights of a classifier as `.pdparams` and, for the baselines, for timm and transformers; paths by name."""
    model = random_model(config)
    source = folder / "weights.pdparams"
    write(source, {name: tensor.numpy() for name, tensor in model.state_dict().items()})
    paths = {"weights": str(source)}
    if baselines:
        convert(source, folder / "timm.safetensors", publisher="timm")
        convert(source, folder / "transformers", publisher="huggingface")
        paths |= {"timm": str(folder / "timm.safetensors"), "transformers": str(folder / "transformers")}
    return paths


def random_model(config: CfgNode) -> Beit:
    """A classifier whose biases, tables and scales are random as well, so that its logits depend on all parameters."""
    paddle.seed(0)
    model = build_beit(config)
    with paddle.no_grad():
        for name, parameter in model.named_parameters():
            noise = _SPREAD * paddle.randn(parameter.shape)
            scale = 25.0 if "table" in name or name.startswith("head.") else 1.0
            parameter.set_value(parameter + scale * noise)
    return model


def write_export(config: CfgNode, weights: str, target: Path, engine: str) -> None:
    """Export a classifier from normalized images to logits for an engine.

    Args:
        config: of the classifier.
        weights: its file.
        target: path of the graph without suffix.
        engine: a key of `beit.deploy.engines.ENGINES`.
    """
    target.parent.mkdir(exist_ok=True)
    network = ExportedNetwork(load_model(weights, config=config), "logits", size=image_hw(config))
    if engine == "paddle":
        write_graph(network, target)
    else:
        write_onnx(network, target, ("logits",), separate_weights=True)


def write_inputs(arrays: dict[str, np.ndarray], file: Path) -> str:
    """Write the inputs of all candidates; returns the path."""
    save_arrays(file, arrays)
    return str(file)


def training_batch(config: CfgNode, batch: int) -> dict[str, np.ndarray]:
    """A batch of random pixels with the items that the task of `config` takes from its dataset."""
    rng = np.random.default_rng(0)
    height, width = image_hw(config)
    arrays: dict[str, np.ndarray] = {"image": rng.integers(0, 256, (batch, 3, height, width), dtype=np.uint8)}
    patches = height * width // config.MODEL.PATCH_SIZE**2
    if config.TASK == "classify":
        arrays["label"] = rng.integers(0, config.MODEL.NUM_CLASSES, batch)
        arrays["erase"] = np.zeros((batch, 1, 4), np.int32)
    elif config.TASK == "pretrain":
        masked = config.MASK.NUM_PATCHES or patches * 2 // 5
        arrays["mask"] = rng.permuted(np.tile(np.arange(patches), (batch, 1)), axis=1) < masked
        arrays["tokens"] = rng.integers(0, config.TOKENIZER.NUM_CODES, (batch, patches))
    else:
        arrays["target"] = rng.standard_normal((batch, patches, config.TOKENIZER.TEACHER_DIM), np.float32)
    return arrays


def write_jpegs(folder: Path, count: int) -> list[str]:
    """Write images of `JPEG_SIZE` with smooth areas, edges and noise, which compress like photographs; returns the paths."""
    rng = np.random.default_rng(0)
    width, height = JPEG_SIZE
    paths = []
    for number in range(count):
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize(JPEG_SIZE, Image.Resampling.BICUBIC)
        draw = ImageDraw.Draw(image)
        for _ in range(12):
            left, top = int(rng.integers(0, width)), int(rng.integers(0, height))
            side = int(rng.integers(10, 150))
            draw.ellipse((left, top, left + side, top + side), fill=tuple(rng.integers(0, 256, 3).tolist()))
        grain = rng.normal(0.0, 12.0, (height, width, 1))
        pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(1)), np.float64) + grain
        path = folder / f"{number:03d}.jpg"
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=90)
        paths.append(str(path))
    return paths


def write_containers(config: str, folder: Path, torch_python: str | None) -> dict[str, Path]:
    """Write one state dict in each file format, those of PyTorch where an interpreter has it; returns paths by format."""
    model = build_beit(get_config(config))
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    files = {"pdparams": folder / "model.pdparams", "safetensors": folder / "model.safetensors"}
    paddle.save(
        model.state_dict(), str(files["pdparams"])
    )  # `write` would add a checksum, which takes time to verify
    write(files["safetensors"], state)
    if torch_python is not None:
        arrays = folder / "arrays.npz"
        save_arrays(arrays, state)
        for action, name in (("save", "torch zip"), ("save-legacy", "torch legacy")):
            files[name] = folder / f"{action}.pth"
            command = ["-m", "beit.bench.baselines", action, str(arrays), str(files[name])]
            root = Path(__file__).parents[2]
            subprocess.run([torch_python, *command], check=True, cwd=root)
        arrays.unlink()
    return files
