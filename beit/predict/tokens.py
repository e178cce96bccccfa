"""Images of a tokenizer's codes, and stored features of a teacher."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import paddle
from PIL import Image
from yacs.config import CfgNode

from beit.config import batch_size_eval
from beit.data.batch_transforms import unit_range
from beit.data.features import TokenizerDataset, build_tokenizer_dataset, row_name
from beit.data.loader import build_loader
from beit.data.sampler import batches_of, evenly_spaced
from beit.files import replacing
from beit.logging import progress
from beit.models.dalle import DalleTokenizer
from beit.models.teachers import load_teacher
from beit.models.tokenizer import build_tokenizer, tokenizer_image_size, trained_decoder
from beit.models.vqkd import VqKd
from beit.predict.resolve import ConfigSource, config_of
from beit.tasks.token_figures import (
    MeanPatches,
    TokenDecoder,
    draw_code_map,
    draw_code_patches,
    draw_codebook,
    draw_reconstructions,
)

# B images, H, W their size, h, w token grid, K codes

_MAX_IMAGES = 8  # images drawn one by one
_MAX_MEANS = 1000  # images of which mean patches are taken


def draw_tokens(
    config: ConfigSource, *, codes: tuple[int, ...] = (), images: int = 256
) -> dict[str, Image.Image]:
    """Images that show what a tokenizer does with validation images (training images if there are none), by name.

    `code map`: images with the colors of their codes. `code N`: patches with the code N. `codebook`: how often each code is
    used. `reconstruction`: the images, and their tokens decoded: by DALL-E's decoder where the config names it, else each
    token as the mean of its patches (`mean_patches`).

    Examples:
        >>> config = beit.get_config("output/tokenizer/config.yaml", ["TOKENIZER.PRETRAINED", "tokenizer.pdparams"])
        >>> beit.draw_tokens(config)["codebook"].save("codebook.png")

    Args:
        config: a config, its name or file, with the weights as TOKENIZER.PRETRAINED.
        codes: numbers of the codes whose patches are drawn; none for the four most frequent.
        images: largest number of images to encode.

    Raises:
        ValueError: no weights are named, or no patch has one of the codes; otherwise as `build_tokenizer`.
    """
    config = config_of(config)
    if not config.TOKENIZER.PRETRAINED:
        raise ValueError("images of codes need a trained tokenizer: set TOKENIZER.PRETRAINED to its weights")
    tokenizer = build_tokenizer(config)
    size = tokenizer_image_size(config)
    dataset = _dataset(config, "val", size) or _dataset(config, "train", size)
    assert dataset is not None  # without training images the data set is refused
    shown, maps = map(np.concatenate, zip(*encoded_images(config, tokenizer, dataset, images), strict=True))
    counts = np.bincount(maps.ravel(), minlength=config.TOKENIZER.NUM_CODES)
    frequent = tuple(int(code) for code in np.argsort(-counts)[:4] if counts[code])
    few = evenly_spaced(len(shown), _MAX_IMAGES)
    drawn = {
        "code map": np.concatenate([draw_code_map(shown[index], maps[index]) for index in few]),
        "codebook": draw_codebook(counts),
    }
    drawn |= {f"code {code}": draw_code_patches(shown, maps, code) for code in codes or frequent}
    decoder: TokenDecoder = trained_decoder(tokenizer) or mean_patches(config, tokenizer)
    rebuilt = decoder.decode(paddle.to_tensor(maps[few]).flatten(1), maps.shape[1:])
    drawn["reconstruction"] = draw_reconstructions(shown[few], rebuilt.numpy())
    return {name: Image.fromarray(pixels) for name, pixels in drawn.items()}


def mean_patches(config: CfgNode, tokenizer: VqKd | DalleTokenizer) -> MeanPatches:
    """A decoder for tokenizers without one: it draws each code as the mean of its patches in up to 1,000 training images.

    Args:
        config: whose data are used.
        tokenizer: with its weights.

    Raises:
        FileNotFoundError, ValueError: see `open_unlabeled`.
    """
    decoder = MeanPatches(config.TOKENIZER.NUM_CODES)
    dataset = _dataset(config, "train", tokenizer_image_size(config))
    assert dataset is not None  # without training images the data set is refused
    with TemporaryDirectory() as folder:
        # As in training, other images replace those that cannot be read.
        dataset.bad_images = Path(folder) / "bad_images.txt"
        for pixels, maps in encoded_images(config, tokenizer, dataset, _MAX_MEANS):
            decoder.add(pixels, maps)
    return decoder


def encoded_images(
    config: CfgNode, tokenizer: VqKd | DalleTokenizer, dataset: TokenizerDataset, count: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of `count` images spread over the data set, uint8 `[B, H, W, 3]`, with their codes `[B, h, w]`.

    Args:
        config: sizes of batches and number of workers.
        tokenizer: with its weights.
        dataset: center crops of the tokenizer's size.
        count: largest number of images.
    """
    height, width = tokenizer_image_size(config)
    stride = (
        tokenizer.encoder.stride if isinstance(tokenizer, DalleTokenizer) else config.TOKENIZER.PATCH_SIZE
    )
    for batch in _batches(config, dataset, count):
        ids = tokenizer.encode(unit_range(paddle.to_tensor(batch["image"]))).numpy()
        yield batch["image"].transpose(0, 2, 3, 1), ids.reshape(-1, height // stride, width // stride)


def store_features(config: CfgNode, folder: str | Path) -> dict[str, tuple[int, ...]]:
    """Write the teacher's features of each split as files that `beit.data.features` reads; their shapes by split.

    Each file appears whole or not at all.

    The features are those of the center crop. Training with them (`TOKENIZER.TEACHER features`) keeps no teacher in
    memory and uses no random crops.

    Args:
        config: with the teacher as TOKENIZER.TEACHER and TOKENIZER.TEACHER_PRETRAINED.
        folder: to write into; created if it is missing.

    Raises:
        ValueError, OSError: no teacher is named, it cannot be read, or the folder cannot be written.
    """
    keys = config.TOKENIZER
    if keys.TEACHER == "features" or not keys.TEACHER_PRETRAINED:
        raise ValueError(
            "set TOKENIZER.TEACHER to a network (clip, dino, beit) and TOKENIZER.TEACHER_PRETRAINED to its weights"
        )
    size = tokenizer_image_size(config)
    teacher = load_teacher(
        keys.TEACHER,
        keys.TEACHER_PRETRAINED,
        key=keys.TEACHER_PRETRAINED_KEY,
        image_size=size,
        num_heads=keys.TEACHER_NUM_HEADS,
    )
    Path(folder).mkdir(parents=True, exist_ok=True)
    shapes: dict[str, tuple[int, ...]] = {}
    splits: tuple[Literal["train", "val"], ...] = ("train", "val")
    for split in splits:
        dataset = _dataset(config, split, size)
        if dataset is None:
            continue
        shape = (len(dataset), teacher.patch_embed.num_patches, teacher.dim)
        dtype = np.dtype(np.float16)
        with replacing(Path(folder) / f"{split}.npy") as file:
            header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for batch in _batches(config, dataset, len(dataset)):  # all images in their order
                images = unit_range(paddle.to_tensor(batch["image"]))
                file.write(teacher(images).numpy().astype(dtype).tobytes())
        with replacing(Path(folder) / f"{split}.txt") as file:
            file.writelines(row_name(dataset.images, index) + b"\n" for index in range(len(dataset)))
        shapes[split] = shape
    return shapes


def _dataset(
    config: CfgNode, split: Literal["train", "val"], size: tuple[int, int]
) -> TokenizerDataset | None:
    return build_tokenizer_dataset(config, split, central_size=size)


def _batches(config: CfgNode, dataset: TokenizerDataset, count: int) -> Iterator[dict[str, np.ndarray]]:
    """Batches of `count` images, spread over the data set."""
    batches = list(batches_of(evenly_spaced(len(dataset), count), batch_size_eval(config)))
    with build_loader(config, dataset) as loader:
        yield from progress(loader(batches), len(batches), "tokens", rank=0)
