"""Tokens computed once per image, so that pre-training need not run the tokenizer in each step."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from yacs.config import CfgNode

from beit.config import batch_size_eval, image_hw
from beit.cpu import split_batch
from beit.data.batch_transforms import unit_range
from beit.data.loader import build_loader
from beit.data.pretraining import PretrainDataset
from beit.data.sampler import EvalSampler
from beit.files import lock, map_array, sha256_of, write_text
from beit.logging import progress
from beit.parallel import ranks
from beit.text_files import read_json

# L tokens of an image

_DIGEST = "SHA-256 of the ids"
# Absent from records of earlier versions.
_ADDED = frozenset({"kind of tokenizer", "number of attention heads"})
_UNFILLED = 65535
_ROWS = 4096  # rows read or written at a time


class TokenCache:
    """A file of token ids, uint16 or int32 `[images, L]` (`.npy`), and a `.json` file with what they depend on.

    Args:
        file: the file of ids; `.npy` is appended if missing.
        dataset: training images with fixed views, so that the tokens of an image are always the same.
        tokenizer: computes the tokens from the second view.
        config: the keys `TOKENIZER.*`, `DATA.*`, and the sizes of image and patch.
    """

    def __init__(
        self, file: Path, dataset: PretrainDataset, tokenizer: paddle.nn.Layer, config: CfgNode
    ) -> None:
        self.file = file if file.suffix == ".npy" else file.with_name(f"{file.name}.npy")
        self.record = self.file.with_suffix(".json")
        self.dataset = dataset
        self.tokenizer = tokenizer
        self.config = config
        self.identity = identify(dataset, tokenizer, config)

    def ensure(self) -> Path:
        """The path of the file of ids; if it does not exist, all ranks together create it first.

        Raises:
            ValueError: the file exists, but for another tokenizer, other images or other views, or it is damaged; or
                another run is creating it.
            OSError: it cannot be written.
        """
        handle = self._lock_missing() if ranks.rank() == 0 else None
        try:
            if ranks.all_reduce_sum({"missing": handle is not None})["missing"]:
                self._fill()
        finally:
            if handle is not None:
                os.close(handle)
        self._check()
        return self.file

    def _lock_missing(self) -> int | None:
        """The handle of a lock on creating the file; None if the file exists."""
        if self._exists():
            return None
        self.file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
        if not lock(handle, wait=False):
            os.close(handle)
            raise ValueError(
                f"another run is filling DATA.TOKEN_CACHE={self.file}; start this one after it, or name another file"
            )
        if self._exists():  # another run has finished it meanwhile
            os.close(handle)
            return None
        try:
            self._refuse_other_files()
        except BaseException:  # an open handle would keep the lock until this process ends
            os.close(handle)
            raise
        return handle

    def _refuse_other_files(self) -> None:
        """Refuse to overwrite files that no run has filled with token ids."""
        if self.file.exists():
            raise ValueError(
                f"DATA.TOKEN_CACHE={self.file} exists, but not {self.record.name}, which states what the ids were made of; "
                "name another file, or delete this one if it holds token ids"
            )
        if self.record.exists() and not _is_record(self.record):
            raise ValueError(
                f"DATA.TOKEN_CACHE={self.file} would overwrite {self.record}, which belongs to something else; name another "
                "file"
            )

    def _exists(self) -> bool:
        return self.file.exists() and self.record.exists()

    def _shape(self) -> tuple[int, int]:
        height, width = image_hw(self.config)
        patch = self.config.MODEL.PATCH_SIZE
        return len(self.dataset), (height // patch) * (width // patch)

    def _fill(self) -> None:
        draft = self.file.with_suffix(".partial")
        if ranks.rank() == 0:
            # Ids are smaller than the largest number of the type, which marks the rows that are not filled yet.
            dtype = np.uint16 if self.config.TOKENIZER.NUM_CODES <= _UNFILLED else np.int32
            _write_unfilled(draft, np.dtype(dtype), self._shape())
        ranks.barrier()
        ids = np.load(draft, mmap_mode="r+")
        sampler = EvalSampler(
            len(self.dataset),
            batch_size=batch_size_eval(self.config),
            world_size=ranks.world_size(),
            rank=ranks.rank(),
        )
        with build_loader(self.config, self.dataset) as loader:
            batches = loader(list(sampler))
            for batch in progress(batches, len(sampler), f"fill {self.file}", rank=ranks.rank()):
                second = unit_range(paddle.to_tensor(batch["second"]))
                ids[batch["index"]] = split_batch(self.tokenizer.encode, second).numpy()
        ids.flush()
        ranks.barrier()
        if ranks.rank() == 0:
            self._require_ids(draft)
            record = self.identity | {_DIGEST: sha256_of(draft)}
            # Before the ids get their name, so that there are never ids without a record.
            write_text(self.record, json.dumps(record, indent=2) + "\n")
            draft.replace(self.file)
        ranks.barrier()

    def _check(self) -> None:
        try:
            stored = read_json(self.record)
        except ValueError as error:
            raise ValueError(f"{error}; {self.record.name} is damaged: {self._remedy()}") from error
        differing = [
            name
            for name, value in self.identity.items()
            if stored.get(name, value if name in _ADDED else None) != value
        ]
        if differing:
            raise ValueError(
                f"DATA.TOKEN_CACHE={self.file} was made with another {', another '.join(differing)}: {self._remedy()}"
            )
        if ranks.rank() == 0:
            ids = self._require_ids(self.file)
            if _DIGEST not in stored:
                self._warn_of_zeros(ids)
            elif stored[_DIGEST] != sha256_of(self.file):
                raise ValueError(
                    f"DATA.TOKEN_CACHE={self.file} is damaged: its SHA-256 is not that in {self.record.name}; "
                    f"{self._remedy()}"
                )

    def _require_ids(self, file: Path) -> np.ndarray:
        """The ids of a file, once their type, number and range are checked."""
        try:
            ids = map_array(file)
        except ValueError as error:
            raise ValueError(f"{error}; {self._remedy()}") from None
        if ids.dtype not in (np.uint16, np.int32) or ids.shape != self._shape():
            raise ValueError(
                f"{file} holds {ids.dtype} {list(ids.shape)}, expected token ids uint16 or int32 {list(self._shape())}; {self._remedy()}"
            )
        num_codes = self.config.TOKENIZER.NUM_CODES
        for start in range(0, len(ids), _ROWS):
            rows = ids[start : start + _ROWS]
            wrong = np.flatnonzero((rows.min(axis=1) < 0) | (rows.max(axis=1) >= num_codes))
            if len(wrong):
                raise ValueError(
                    f"{file} is incomplete or damaged: row {start + wrong[0]} has ids outside of 0 to {num_codes - 1} "
                    f"(TOKENIZER.NUM_CODES={num_codes}); {self._remedy()}"
                )
        return ids

    def _warn_of_zeros(self, ids: np.ndarray) -> None:
        """Files of earlier versions have no digest; there, rows that were not filled are zero."""
        zero = sum(
            int((~ids[start : start + _ROWS].any(axis=1)).sum()) for start in range(0, len(ids), _ROWS)
        )
        if zero > 1:
            warnings.warn(
                f"DATA.TOKEN_CACHE={self.file}: {zero} of {len(ids)} images have the token 0 everywhere, as if two runs had "
                f"filled the file at the same time; {self._remedy()}",
                stacklevel=2,
            )

    def _remedy(self) -> str:
        return f"name another file, or delete this one and {self.record.name} so that it is made anew"


def _is_record(file: Path) -> bool:
    """Whether a file is the record of token ids."""
    try:
        return "list of images" in read_json(file)
    except ValueError:
        return False


def _write_unfilled(file: Path, dtype: np.dtype, shape: tuple[int, int]) -> None:
    """Write a `.npy` file of unfilled rows. Its space on the disk is taken here, where a full disk is an `OSError`."""
    row = np.full(shape[1], np.iinfo(dtype).max, dtype).tobytes()
    with file.open("wb") as stream:
        header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for start in range(0, shape[0], _ROWS):
            stream.write(row * min(_ROWS, shape[0] - start))


def identify(dataset: PretrainDataset, tokenizer: paddle.nn.Layer, config: CfgNode) -> dict[str, Any]:
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
        "kind of tokenizer": config.TOKENIZER.TYPE,
        "number of attention heads": config.TOKENIZER.NUM_HEADS if config.TOKENIZER.TYPE == "vqkd" else None,
    }
