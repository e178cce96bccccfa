"""Unusual image files: each is opened by a documented rule or refused by name, and no worker ends."""

from __future__ import annotations

import io
import os
import re
import shutil
import struct
import time
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beit.data.dataset import build_dataset
from beit.data.images import ImageError, open_image
from beit.data.loader import Loader, WorkerError
from beit.data.sampler import Sample
from tests.faults.harness import Row, finish, message
from tests.faults.limited_memory import LimitedMemory
from tests.hostile_images import (
    encoded,
    jpeg_2000_with_blocks,
    jpeg_2000_with_box,
    progressive_jpeg,
    run_length_bmp,
    tiff_with_tile,
)
from tests.tiny import command, tiny_config, write_dataset

FLIPS = 1000


def picture(size: tuple[int, int] = (40, 30), mode: str = "RGB") -> Image.Image:
    pixels = (
        np.random.default_rng(0).integers(0, 256, (size[1] // 2 + 1, size[0] // 2 + 1, 3)).astype(np.uint8)
    )
    return Image.fromarray(pixels).resize(size).convert(mode)


def bomb() -> bytes:
    """A PNG of 30000 x 30000 pixels in a few hundred bytes."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(30001)))
        + chunk(b"IEND", b"")
    )


def animated() -> bytes:
    file = io.BytesIO()
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "green", "blue")]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(), "JPEG", exif=exif)


def palette() -> bytes:
    image = picture(mode="P")
    return encoded(image, "PNG", transparency=0)


WIDE = (np.arange(1200, dtype=np.uint32) * 54).astype(np.uint16).reshape(30, 40)
JPEG = encoded(picture((120, 90)), "JPEG", quality=90)
PROGRESSIVE = encoded(picture((2000, 1500)), "JPEG", progressive=True)

REFUSED = {
    "zero bytes": (b"", "an empty file (0 bytes)"),
    "HTML saved as .JPEG": (b"<!DOCTYPE html><html>404</html>", "an HTML page, not an image"),
    "git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a git-lfs pointer"),
    "zeros": (bytes(5000), "begins with zeros only"),
    "text": (b"not an image at all", "no image in one of the formats"),
    "EPS, a format that is not allowed": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "no image in one of the formats"),
    "JPEG without its last 2 bytes": (JPEG[:-2], "cannot be decoded"),
    "JPEG cut at 50 %": (JPEG[: len(JPEG) // 2], "cannot be decoded"),
    "decompression bomb, 900 megapixels": (bomb(), "more pixels than"),
    "progressive JPEG of 10,000 scans": (progressive_jpeg(PROGRESSIVE, 10_000), "a JPEG of 101 or more scans"),
    "run-length encoded BMP, 64 megapixels in a kilobyte": (run_length_bmp(8000, 8000, b"\x00\x01"), "a run-length encoded BMP"),
    "TIFF of 16x16 pixels in a tile of 24000x24000": (tiff_with_tile(16, 24000), "a tile of 576000000 pixels"),
    "JPEG 2000 of 5 million code blocks": (jpeg_2000_with_blocks(8000, boxed=True), "a JPEG 2000 of 5"),
    "JPEG 2000 whose header claims 96 GB": (jpeg_2000_with_box(96 << 30), "cannot be decoded"),
    "float TIFF outside of 0 to 1": (encoded(Image.fromarray(np.full((9, 9), 7.5, np.float32)), "TIFF"), "float pixels from 7.5 to 7.5"),
    "float TIFF with NaN": (encoded(Image.fromarray(np.full((9, 9), np.nan, np.float32)), "TIFF"), "float pixels"),
}  # fmt: skip

OPENED = {
    "PNG named .JPEG": encoded(picture(), "PNG"),
    "1x1": encoded(picture((1, 1)), "PNG"),
    "1x20000": encoded(picture((1, 20000)), "PNG"),
    "20000x1": encoded(picture((20000, 1)), "PNG"),
    "CMYK JPEG": encoded(picture(mode="CMYK"), "JPEG"),
    "gray JPEG": encoded(picture(mode="L"), "JPEG"),
    "1-bit PNG": encoded(picture(mode="1"), "PNG"),
    "16-bit PNG": encoded(Image.fromarray(WIDE), "PNG"),
    "16-bit TIFF": encoded(Image.fromarray(WIDE), "TIFF"),
    "palette with transparency": palette(),
    "RGBA": encoded(picture(mode="RGBA"), "PNG"),
    "animated GIF": animated(),
    "EXIF-rotated JPEG": rotated(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, row: Row, name: str) -> None:
    content, reason = REFUSED[name]
    row.fault, row.expected = name, "refused; the message states the reason"
    path = tmp_path / "picture.JPEG"
    path.write_bytes(content)
    begin = time.process_time()
    with pytest.raises(ImageError) as caught:
        open_image(path)
    row.seconds = time.process_time() - begin
    assert row.seconds < 2
    assert reason in str(caught.value) and str(path) in str(caught.value)
    row.seen = caught.value.reason


def expected_pixels(name: str, content: bytes) -> np.ndarray | None:
    """The documented rule, written out for the files that need one."""
    if name.startswith("16-bit"):
        return np.repeat(((WIDE.astype(np.float64) / 257).round().astype(np.uint8))[..., None], 3, axis=2)
    if name == "palette with transparency":
        rgba = np.asarray(Image.open(io.BytesIO(content)).convert("RGBA")).astype(np.float64)
        alpha = rgba[..., 3:] / 255
        return (rgba[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)
    if name == "animated GIF":
        return np.broadcast_to(np.array([255, 0, 0], np.uint8), (20, 20, 3))
    return None


@pytest.mark.parametrize("name", OPENED)
def test_opened(tmp_path: Path, row: Row, name: str) -> None:
    row.fault, row.expected = (
        name,
        "opened as 8-bit RGB by the documented rules; training and evaluation transforms return complete, finite images",
    )
    path = tmp_path / "picture.JPEG"
    path.write_bytes(OPENED[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = open_image(path)
    assert image.mode == "RGB"
    pixels = np.asarray(image)
    wanted = expected_pixels(name, OPENED[name])
    if wanted is not None:
        np.testing.assert_allclose(pixels, wanted, atol=1)
    root = write_dataset(tmp_path / "data")
    for target in (root / "my images").iterdir():
        target.write_bytes(OPENED[name])
    config = tiny_config(root, tmp_path / "out", TRAIN__RANDOM_ERASE_PROB=1.0)
    for split in ("train", "val"):
        dataset = build_dataset(config, split)
        for seed in range(20):
            sample = dataset[Sample(seed % len(dataset), seed)]
            assert sample["image"].shape == (3, 16, 16) and sample["image"].dtype == np.uint8
    row.seen = (
        f"{image.size[0]}x{image.size[1]} RGB, mean {pixels.mean():.0f}; 40 augmented samples are complete"
    )


def test_truncated_anywhere(tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = (
        "a JPEG and a PNG cut at 300 random offsets each",
        "each refused with the file name; no other exception",
    )
    rng = np.random.default_rng(0)
    path = tmp_path / "picture.jpg"
    refused = 0
    for content in (JPEG, encoded(picture((120, 90)), "PNG")):
        for length in rng.integers(0, len(content) - 2, 300):
            path.write_bytes(content[:length])
            with pytest.raises(ImageError):
                open_image(path)
            refused += 1
    row.seen = f"{refused} of 600 refused"


def test_flipped_bytes(tmp_path: Path, row: Row) -> None:
    row.fault = f"{FLIPS} random byte flips of a JPEG, through the loader's worker processes"
    row.expected = "each is decoded, or replaced, counted and named; no worker dies"
    root = write_dataset(tmp_path / "data", train=FLIPS, val=1)
    rng = np.random.default_rng(0)
    for number in range(FLIPS):
        flipped = bytearray(JPEG)
        flipped[int(rng.integers(len(JPEG)))] ^= int(rng.integers(1, 256))
        (root / "my images" / f"train_{number}.png").write_bytes(bytes(flipped))
    config = tiny_config(root, tmp_path / "out", DATA__NUM_WORKERS=2)
    bad = tmp_path / "bad_images.txt"
    dataset = build_dataset(config, "train", bad_images=bad)
    batches = [[Sample(index, index) for index in range(start, start + 50)] for start in range(0, FLIPS, 50)]
    with Loader(dataset, num_workers=2) as loader:
        images = sum(batch["image"].shape[0] for batch in loader(batches))
    assert images == FLIPS
    named = dataset.unreadable()
    reasons = Counter(
        line.split("\t")[1].split(":")[0][:40] for line in bad.read_text(encoding="utf-8").splitlines()
    )
    for path in list(named)[:50]:
        with pytest.raises(ImageError):
            open_image(path)
    assert 0 < len(named) < FLIPS // 2
    row.seen = f"{images} samples; {len(named)} unreadable, each named; {', '.join(f'{count} {why}' for why, count in reasons.most_common(3))}"


def test_training_command(tmp_path: Path, row: Row) -> None:
    row.fault = f"training data with {len(REFUSED)} damaged files of 200 and all unusual files that can be opened, 2 workers"
    row.expected = "training finishes; each damaged file is counted and named in bad_images.txt"
    root = write_dataset(tmp_path / "data", train=200, val=11)
    for number, content in enumerate([*[content for content, _ in REFUSED.values()], *OPENED.values()]):
        (root / "my images" / f"train_{number * 5}.png").write_bytes(content)
    keys = {"DATA__NUM_WORKERS": 2, "DATA__MAX_BAD_FRACTION": 0.1, "TRAIN__NUM_EPOCHS": 1}
    status, text, _ = finish(command("main_single_gpu.py", root, tmp_path / "run", **keys), tmp_path / "run")
    assert status == 0, text[-2000:]
    assert f"{len(REFUSED)} of 200 training images cannot be read and were replaced by others" in text
    lines = (tmp_path / "run" / "bad_images.txt").read_text(encoding="utf-8").splitlines()
    assert {line.split("\t")[0] for line in lines} == {
        str(root / "my images" / f"train_{number * 5}.png") for number in range(len(REFUSED))
    }
    row.seen = f"status 0; {len(REFUSED)} of 200 training images cannot be read and were replaced by others"


def test_too_many_bad_images(tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = (
        "5 of 50 training images are empty, DATA.MAX_BAD_FRACTION=0.01",
        "status 2 with the count and the list",
    )
    root = write_dataset(tmp_path / "data", train=50, val=5)
    for number in range(0, 50, 10):
        (root / "my images" / f"train_{number}.png").write_bytes(b"")
    status, text, row.seconds = finish(
        command("main_single_gpu.py", root, tmp_path / "run"), tmp_path / "run"
    )
    assert (
        status == 2
        and "more than DATA.MAX_BAD_FRACTION = 0.01; they are listed in" in text
        and "Traceback" not in text
    ), text[-1500:]
    row.seen = message(text)


def test_names_with_tabs_are_counted(tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = (
        "12 of 24 training images are empty and have names with tabs, DATA.MAX_BAD_FRACTION=0.25",
        "status 2 with the count; the run continues after the repair with -resume=auto",
    )
    root = write_dataset(tmp_path / "data", train=24, val=5)
    lines = (root / "train_list.txt").read_text(encoding="utf-8").splitlines()
    for number in range(12):
        old, new = f"train_{number}.png", f"train\t{number}.png"
        (root / "my images" / old).rename(root / "my images" / new)
        lines = [line.replace(f"{old} ", f"{new} ") for line in lines]
    (root / "train_list.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    intact = {number: (root / "my images" / f"train\t{number}.png").read_bytes() for number in range(12)}
    for number in intact:
        (root / "my images" / f"train\t{number}.png").write_bytes(b"")
    words = command("main_single_gpu.py", root, tmp_path / "run", DATA__MAX_BAD_FRACTION=0.25)
    status, text, row.seconds = finish(words, tmp_path / "run")
    assert status == 2 and "of 24 training images cannot be read, more than" in text, text[-1500:]
    row.seen = message(text)
    for number, content in intact.items():
        (root / "my images" / f"train\t{number}.png").write_bytes(content)
    status, text, _ = finish([*words, "-resume=auto"], tmp_path / "run")
    assert status == 0 and "cannot be read" not in text, text[-1500:]


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_is_never_of_other_images(tmp_path: Path, row: Row, workers: int) -> None:
    row.fault, row.expected = (
        f"a truncated validation image, {workers} workers",
        "training ends with status 2 at the evaluation; the message names the image and its place in the list; no metric is printed",
    )
    root = write_dataset(tmp_path / "data", train=12, val=9)
    path = root / "my images" / "val_5.png"
    path.write_bytes(path.read_bytes()[:200])
    status, text, row.seconds = finish(
        command("main_single_gpu.py", root, tmp_path / "run", DATA__NUM_WORKERS=workers, TRAIN__NUM_EPOCHS=1),
        tmp_path / "run",
    )
    assert status == 2 and f"{path}: " in text and "(image 5 of the list, from 0)" in text, text[-1500:]
    assert not re.search(r"top1 +\d", text) and "Traceback" not in text, text[-1500:]
    row.seen = message(text)
    shutil.copy(root / "my images" / "val_4.png", path)  # as the message says
    resumed = command(
        "main_single_gpu.py", root, tmp_path / "run", "-resume=auto",
        DATA__NUM_WORKERS=workers, TRAIN__NUM_EPOCHS=1,
    )  # fmt: skip
    status, text, _ = finish(resumed, tmp_path / "run")
    assert status == 0 and "evaluation after epoch 1" in text, text[-1500:]


def test_check_finds_bad_images(tmp_path: Path, row: Row) -> None:
    row.fault = f"`beit check` on {len(REFUSED)} damaged files, 40 JPEGs cut at random, {len(OPENED)} unusual and 120 intact files"
    row.expected = "status 1; every damaged file is named with its reason, no intact file is named"
    cut, root = 40, write_dataset(tmp_path / "data", train=120 + len(REFUSED) + 40 + len(OPENED), val=11)
    rng = np.random.default_rng(0)
    contents = [content for content, _ in REFUSED.values()]
    contents += [JPEG[: int(rng.integers(200, len(JPEG) - 2))] for _ in range(cut)]
    bad = {str(root / "my images" / f"train_{number}.png") for number in range(len(contents))}
    for number, content in enumerate([*contents, *OPENED.values()]):
        (root / "my images" / f"train_{number}.png").write_bytes(content)
    words = command("main_single_gpu.py", root, tmp_path / "run")
    words[1:2] = ["-m", "beit", "check", "--skip-step"]
    status, text, row.seconds = finish(words, tmp_path / "run")
    assert status == 1 and f"{len(bad)} problem(s):" in text, text[-1500:]
    listed = [line for line in text.splitlines() if line.strip().startswith(str(root))]
    assert {line.strip().split(": ")[0] for line in listed} <= bad and len(listed) == 20
    row.seen = f"{len(bad)} of {len(bad)} found, no false alarm; 20 listed, then `… and {len(bad) - 20} more`"


def test_named_pipe(tmp_path: Path, row: Row) -> None:
    row.fault, row.expected = (
        "a named pipe (FIFO) among the training images, read without workers",
        "replaced at once and named: only regular files are opened",
    )
    root = write_dataset(tmp_path / "data", train=12, val=2)
    pipe = root / "my images" / "train_3.png"
    pipe.unlink()
    os.mkfifo(pipe)
    dataset = build_dataset(tiny_config(root, tmp_path / "out"), "train", bad_images=tmp_path / "bad.txt")
    begin = time.monotonic()
    with Loader(dataset, num_workers=0) as loader:
        batch = next(iter(loader([[Sample(index, 0) for index in range(12)]])))
    row.seconds = time.monotonic() - begin
    assert batch["image"].shape[0] == 12 and dataset.unreadable() == {str(pipe)}
    row.seen = (tmp_path / "bad.txt").read_text(encoding="utf-8").split("\t")[1].strip()


@pytest.mark.parametrize("workers", [0, 1])
def test_memory_runs_out_while_decoding(tmp_path: Path, row: Row, workers: int) -> None:
    row.fault, row.expected = (
        f"an intact image of 36 megapixels, 32 MB of memory left, {workers} workers",
        "an error that names the image; it is not replaced by another",
    )
    path = tmp_path / "large.png"
    Image.new("RGB", (6000, 6000)).save(path)
    assert open_image(path).size == (6000, 6000)
    with Loader(LimitedMemory(path), num_workers=workers) as loader, pytest.raises(WorkerError) as caught:
        list(loader([[Sample(0, 0)]]))
    assert f"out of memory while reading {path}" in str(caught.value)
    row.seen = str(caught.value)
