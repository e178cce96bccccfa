"""For any world size, batch size and dataset the evaluation equals the sums of a plain loop."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import paddle
import pytest

from beit.data.sampler import EvalSampler, Sample
from beit.tasks import TASKS
from beit.tasks.metrics import classification_sums
from beit.train.run import run
from tests.faults.harness import Row, succeed
from tests.tiny import command, tiny_config, write_dataset

WORLDS, BATCHES, IMAGES, CLASSES = range(1, 5), range(1, 65), range(1, 258), 11
NAMES = ("count", "top1", "top5", "loss")


def plain_loop(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Sums over the first n images for every n, one image after the other: `[257, 4]`."""
    sums, rows = np.zeros(4), []
    for scores, label in zip(logits, labels, strict=True):
        order = sorted(range(CLASSES), key=lambda k: (-scores[k], k))
        single = paddle.nn.functional.cross_entropy(
            paddle.to_tensor(scores[None]), paddle.to_tensor(label[None])
        )
        sums = sums + np.array([1, order[0] == label, label in order[:5], float(single)])
        rows.append(sums)
    return np.array(rows)


def test_whole_grid(row: Row) -> None:
    row.fault = f"1-4 ranks x batches 1-64 x data sets of 1-257 images: {len(WORLDS) * len(BATCHES) * len(IMAGES):,} evaluations"
    row.expected = "count, top-1, top-5 and loss sums equal a plain loop to the last bit"
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(max(IMAGES), CLASSES)).astype(np.float32)
    logits[rng.random(logits.shape) < 0.2] = 0.5  # ties
    labels = rng.integers(0, CLASSES, max(IMAGES))
    wanted = plain_loop(logits, labels)
    known: dict[range, np.ndarray] = {}

    def sums_of(indices: range) -> np.ndarray:
        if indices not in known:
            found = classification_sums(paddle.to_tensor(logits[indices]), paddle.to_tensor(labels[indices]))
            known[indices] = np.array([float(found[name]) for name in NAMES])
        return known[indices]

    checked = 0
    for world in WORLDS:
        for batch in BATCHES:
            for length in IMAGES:
                total, seen = np.zeros(4), 0
                for rank in range(world):
                    sampler = EvalSampler(length, batch_size=batch, world_size=world, rank=rank)
                    own = np.zeros(4)
                    for begin in range(0, len(sampler.indices), batch):
                        part = sampler.indices[begin : begin + batch]
                        own += sums_of(part)
                        seen += len(part)
                    total += own
                assert seen == length
                assert (total == wanted[length - 1]).all(), (world, batch, length, total, wanted[length - 1])
                checked += 1
    # `indices` above is what the sampler's batches are made of.
    for world, batch, length in ((1, 1, 1), (3, 7, 100), (4, 64, 257)):
        for rank in range(world):
            sampler = EvalSampler(length, batch_size=batch, world_size=world, rank=rank)
            batches = [[sample.index for sample in batch] for batch in sampler]
            assert batches == [
                list(sampler.indices[k : k + batch]) for k in range(0, len(sampler.indices), batch)
            ]
            assert len(batches) == len(sampler)
    row.seen = f"{checked:,} evaluations, {len(known):,} different batches, all sums equal"


@pytest.mark.parametrize(
    ("world", "batch", "images"), [(1, 64, 57), (2, 5, 57), (3, 16, 2), (4, 7, 57), (4, 3, 1)]
)
def test_real_processes(tmp_path: Path, row: Row, world: int, batch: int, images: int) -> None:
    row.fault = f"-eval with {world} rank(s), batch {batch}, {images} image(s)"
    row.expected = "count, top-1 and top-5 equal those of a plain loop over single images; the loss to 1e-6"
    root = write_dataset(tmp_path / "data", train=12, val=images)
    run(tiny_config(root, tmp_path / "train", TRAIN__NUM_EPOCHS=1, TRAIN__BASE_LR=1e-5, MODEL__NUM_CLASSES=7))
    weights = tmp_path / "train" / "model.pdparams"
    script, extra = ("main_single_gpu.py", ()) if world == 1 else ("main_multi_gpu.py", (f"-nprocs={world}",))
    keys = {"DATA__BATCH_SIZE_EVAL": batch, "MODEL__NUM_CLASSES": 7}
    succeed(
        command(script, root, tmp_path / "eval", "-eval", f"-pretrained={weights}", *extra, **keys),
        tmp_path / "eval",
    )
    report = json.loads((tmp_path / "eval" / "eval.json").read_text(encoding="utf-8"))
    task = TASKS["classify"](tiny_config(root, tmp_path / "plain", **keys))
    task.load(str(weights))
    task.eval()
    dataset = task.dataset("val")
    hits, losses = np.zeros(2), []
    for index in range(images):
        sample = dataset[Sample(index, index)]
        with paddle.no_grad():
            logits = (
                task.model(task.normalize(paddle.to_tensor(sample["image"][None])))
                .numpy()[0]
                .astype(np.float64)
            )
        order = sorted(range(7), key=lambda k: (-logits[k], k))
        label = int(sample["label"])
        hits += [order[0] == label, label in order[:5]]
        losses.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label])
    assert report["count"] == images
    assert [report["top1"], report["top5"]] == [100 * hits[0] / images, 100 * hits[1] / images]
    assert report["loss"] == pytest.approx(np.mean(losses), abs=1e-6)
    row.seen = f"count {report['count']}, top-1 {report['top1']:.4f}, top-5 {report['top5']:.4f}, loss off by {abs(report['loss'] - np.mean(losses)):.0e}"
