"""Tokens computed once per image, so that pre-training need not run the tokenizer in each step."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from yacs.config import CfgNode

from beit.config import batch_size_eval, image_hw
from beit.cpu import split_batch
from beit.data.loader import Loader
from beit.data.pretraining import PretrainDataset
from beit.data.sampler import EvalSampler
from beit.files import write_text
from beit.logging import progress
from beit.parallel import ranks

# L tokens of an image


class TokenCache:
    """A file of token ids, uint16 or int32 `[images, L]` (`.npy`), and a `.json` file with what they depend on.

    Args:
        file: the file of ids; `.npy` is appended if missing.
        dataset: training images with fixed views, so that the tokens of an image are always the same.
        tokenizer: computes the tokens from the second view.
    """

    def __init__(self, file: Path, dataset: PretrainDataset, tokenizer: paddle.nn.Layer) -> None:
        self.file = file if file.suffix == ".npy" else file.with_name(f"{file.name}.npy")
        self.record = self.file.with_suffix(".json")
        self.dataset = dataset
        self.tokenizer = tokenizer
        self.identity = identify(dataset, tokenizer)

    def ensure(self, config: CfgNode) -> Path:
        """The path of the file of ids; if it does not exist, all ranks together create it first.

        Raises:
            ValueError: the file exists, but for another tokenizer, other images or other views.
        """
        if not (self.file.exists() and self.record.exists()):
            self._fill(config)
        stored = json.loads(self.record.read_text(encoding="utf-8"))
        differing = [name for name, value in self.identity.items() if stored.get(name) != value]
        if differing:
            raise ValueError(
                f"DATA.TOKEN_CACHE={self.file} was made with another {', another '.join(differing)}: "
                "name another file, or delete this one so that it is made anew"
            )
        return self.file

    def _fill(self, config: CfgNode) -> None:
        draft = self.file.with_suffix(".partial")
        height, width = image_hw(config)
        num_tokens = (height // config.MODEL.PATCH_SIZE) * (width // config.MODEL.PATCH_SIZE)
        shape = (len(self.dataset), num_tokens)
        if ranks.rank() == 0:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            dtype = np.uint16 if config.TOKENIZER.NUM_CODES <= 1 << 16 else np.int32
            np.lib.format.open_memmap(draft, "w+", dtype, shape)
        ranks.barrier()
        ids = np.load(draft, mmap_mode="r+")
        sampler = EvalSampler(
            len(self.dataset),
            batch_size=batch_size_eval(config),
            world_size=ranks.world_size(),
            rank=ranks.rank(),
        )
        data = config.DATA
        with Loader(self.dataset, num_workers=data.NUM_WORKERS, timeout=data.WORKER_TIMEOUT) as loader:
            batches = loader(list(sampler))
            for batch in progress(batches, len(sampler), f"fill {self.file}", rank=ranks.rank()):
                second = paddle.to_tensor(batch["second"]).astype("float32") / 255.0
                ids[batch["index"]] = split_batch(self.tokenizer.encode, second).numpy()
        ids.flush()
        ranks.barrier()
        if ranks.rank() == 0:
            draft.replace(self.file)
            write_text(self.record, json.dumps(self.identity, indent=2) + "\n")
        ranks.barrier()


def identify(dataset: PretrainDataset, tokenizer: paddle.nn.Layer) -> dict[str, Any]:
    """All that token ids depend on, as text and digests: tokenizer weights, images and their order, views, seed."""
    weights = hashlib.sha256()
    for name, tensor in sorted(tokenizer.state_dict().items()):
        weights.update(f"{name} {list(tensor.shape)}".encode())
        weights.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    images = hashlib.sha256(dataset.images.names)
    images.update(dataset.images.offsets.tobytes())
    return {
        "tokenizer": weights.hexdigest(),
        "list of images": images.hexdigest(),
        "transform": repr(dataset.transform),
        "way of opening pictures": dict(dataset.open_options),
        "seed": dataset.seed,
    }
