"""The work as PyTorch libraries do it: each function builds a step for `beit.bench.worker`. Does not import Paddle.

`python -m beit.bench.baselines save ARRAYS.npz FILE` writes arrays with `torch.save`, `save-legacy` in its older format.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from beit.bench.worker import Step, read_once

_EMA_DECAY = 0.9999


def timm_infer(work: Mapping[str, Any]) -> Step:
    """Logits by timm's model, with `compile` by torch.compile."""
    _threads(work)
    model: Any = _timm_model(work).to(_device(work)).eval()
    if work.get("compile"):
        model = torch.compile(model)
    return _logits(model, work)


def transformers_infer(work: Mapping[str, Any]) -> Step:
    """Logits by transformers' model; `attention` is "sdpa" or "eager"."""
    from transformers import BeitForImageClassification

    _threads(work)
    model = BeitForImageClassification.from_pretrained(
        work["transformers"], attn_implementation=work["attention"]
    )
    model = model.to(_device(work)).eval()
    return _logits(lambda images: model(images).logits, work)


def export_onnx(work: Mapping[str, Any], file: Path) -> None:
    """Write timm's model as ONNX by PyTorch's exporter, for the batch size of the work."""
    images = torch.from_numpy(_inputs(work)["images"])
    torch.onnx.export(_timm_model(work).eval(), (images,), str(file), input_names=["images"], dynamo=False)


def timm_train(work: Mapping[str, Any]) -> Step:
    """timm's full training step: forward, backward, gradient norm, AdamW with layer decay, moving average."""
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import param_groups_layer_decay
    from timm.utils import ModelEmaV3

    _threads(work)
    model = _timm_model(work).to(_device(work)).train()
    groups = param_groups_layer_decay(
        model, weight_decay=work["weight_decay"], layer_decay=work["layer_decay"]
    )
    for group in groups:
        group["lr"] = work["lr"] * group["lr_scale"]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8)
    average = ModelEmaV3(model, decay=_EMA_DECAY)
    criterion = LabelSmoothingCrossEntropy(work["smoothing"])
    arrays = _inputs(work)
    pixels, labels = (torch.from_numpy(arrays[name]).to(_device(work)) for name in ("image", "label"))
    mean, std = (torch.tensor(work[name], device=_device(work)).view(1, 3, 1, 1) for name in ("mean", "std"))
    losses: list[float] = []
    autocast = _autocast(work)

    def step() -> dict[str, np.ndarray]:
        images = (pixels.float() / 255.0 - mean) / std
        with autocast():
            loss = criterion(model(images), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf"))
        optimizer.step()
        optimizer.zero_grad()
        average.update(model)
        if _device(work) == "cuda":
            torch.cuda.synchronize()
        if len(losses) < work["compared_steps"]:
            losses.append(float(loss))
            if len(losses) < work["compared_steps"]:
                return step()
        return {"losses": np.asarray(losses)}

    return step


def load_torch(work: Mapping[str, Any]) -> Step:
    """Read a checkpoint with `torch.load`; the results are the sums of the tensors."""
    return read_once(lambda: torch.load(work["file"], weights_only=True))


def load_safetensors(work: Mapping[str, Any]) -> Step:
    """Read a checkpoint with safetensors; the results are the sums of the tensors."""
    from safetensors.numpy import load_file

    return read_once(lambda: load_file(work["file"]))


def data_train(work: Mapping[str, Any]) -> Step:
    """Image files to a normalized batch by timm's training transform on Pillow images, one thread."""
    from PIL import ImageOps
    from timm.data import create_transform

    # timm 1.0.31 sometimes posterizes to 0 bits, which Pillow 13 refuses.
    posterize = ImageOps.posterize
    ImageOps.posterize = lambda image, bits: posterize(image, max(1, bits))
    return _data(
        work,
        create_transform(
            work["size"],
            is_training=True,
            color_jitter=0.4,
            auto_augment=work["auto_augment"],
            interpolation="bicubic",
            re_prob=work["erase_probability"],
            re_mode="pixel",
            re_count=1,
            mean=work["mean"],
            std=work["std"],
        ),
        compare=False,
    )


def data_eval(work: Mapping[str, Any]) -> Step:
    """Image files to a normalized batch by torchvision's evaluation transform on Pillow images, one thread."""
    from torchvision import transforms

    steps = [
        transforms.Resize(work["resized"], transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(work["size"]),
        transforms.ToTensor(),
        transforms.Normalize(work["mean"], work["std"]),
    ]
    return _data(work, transforms.Compose(steps), compare=True)


def _data(work: Mapping[str, Any], transform: Callable[[Any], torch.Tensor], *, compare: bool) -> Step:
    from PIL import Image

    _threads(work)

    def step() -> np.ndarray:
        images = []
        for file in work["files"]:
            with Image.open(file) as image:
                images.append(transform(image.convert("RGB")))
        batch = torch.stack(images)
        return batch.numpy() if compare else np.asarray(batch.shape)

    return step


def _timm_model(work: Mapping[str, Any]) -> Any:
    import timm
    from safetensors.torch import load_file

    model = timm.create_model(
        work["timm_name"], num_classes=work["num_classes"], img_size=work["size"], **work["timm_arguments"]
    )
    model.load_state_dict(load_file(work["timm"]))
    return model


def _logits(model: Callable[[torch.Tensor], torch.Tensor], work: Mapping[str, Any]) -> Step:
    images = torch.from_numpy(_inputs(work)["images"]).to(_device(work))
    autocast = _autocast(work)

    @torch.inference_mode()
    def step() -> np.ndarray:
        with autocast():
            return model(images).float().cpu().numpy()

    return step


def _autocast(work: Mapping[str, Any]) -> Callable[[], Any]:
    enabled = work.get("precision") == "bfloat16"
    return lambda: torch.autocast(_device(work), dtype=torch.bfloat16, enabled=enabled)


def _device(work: Mapping[str, Any]) -> str:
    return "cpu" if work["device"] == "cpu" else "cuda"


def _threads(work: Mapping[str, Any]) -> None:
    torch.set_num_threads(work["threads"])


def _inputs(work: Mapping[str, Any]) -> dict[str, np.ndarray]:
    with np.load(work["inputs"]) as file:
        return {name: file[name] for name in file.files}


if __name__ == "__main__":
    action, arrays, target = sys.argv[1:]
    with np.load(arrays) as file:
        tensors = {name: torch.from_numpy(file[name]) for name in file.files}
    torch.save(tensors, target, _use_new_zipfile_serialization=action == "save")
