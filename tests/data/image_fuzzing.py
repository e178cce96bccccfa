"""`python -m tests.data.image_fuzzing SECONDS SEED FOLDER`: damage images at random, read each, and print a JSON of counts.

It is a program of its own, because a decoder in C may crash or never return: `FOLDER/image` is then the file that did it.
"""

from __future__ import annotations

import collections
import json
import os
import re
import struct
import sys
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from beit.data.images import DRAFT_SCALES, FORMATS, ImageError, ImageFile
from tests.hostile_images import (
    encoded,
    jpeg_2000_with_blocks,
    progressive_jpeg,
    run_length_bmp,
    tiff_with_tile,
)

MAX_PIXELS = 10**6
FEWEST = 30
"""Images of each kind that are read however slow the machine is."""
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF)


def valid_images() -> dict[str, bytes]:
    """One file of each decoder and of each of its usual modes, by name; it begins with the format."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8))
    smooth = noise.resize((6, 4)).resize((90, 70))
    wide = Image.fromarray((np.arange(1200) * 54).astype(np.uint16).reshape(30, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [smooth.rotate(90), smooth.rotate(180)]}
    found = {
        "JPEG": encoded(smooth, "JPEG", exif=exif),
        "JPEG, gray": encoded(smooth.convert("L"), "JPEG"),
        "JPEG, CMYK": encoded(smooth.convert("CMYK"), "JPEG"),
        "JPEG, progressive": encoded(smooth, "JPEG", progressive=True),
        "JPEG, many scans": progressive_jpeg(encoded(smooth, "JPEG", progressive=True), 90),
        "PNG": encoded(smooth, "PNG", exif=exif),
        "PNG, palette": encoded(smooth.convert("P"), "PNG", transparency=0),
        "PNG, alpha": encoded(smooth.convert("RGBA"), "PNG"),
        "PNG, 16 bits": encoded(wide, "PNG"),
        "PNG, animated": encoded(smooth, "PNG", **frames),
        "BMP": encoded(noise, "BMP"),
        "BMP, run lengths": run_length_bmp(40, 30, b"\x28\x07\x00\x00" * 30 + b"\x00\x01"),
        "GIF": encoded(smooth, "GIF", **frames),
        "TIFF": encoded(noise, "TIFF"),
        "TIFF, tile": tiff_with_tile(16, 64),
        "TIFF, float": encoded(Image.fromarray(rng.random((20, 20), np.float32)), "TIFF"),
        "WEBP": encoded(smooth, "WEBP", exif=exif),
        "WEBP, lossless": encoded(smooth.convert("RGBA"), "WEBP", lossless=True),
        "WEBP, animated": encoded(smooth, "WEBP", **frames),
        "PPM": encoded(noise, "PPM"),
        "PPM, gray": encoded(noise.convert("L"), "PPM"),
        "AVIF": encoded(smooth, "AVIF") if "AVIF" in FORMATS else b"",
        "JPEG2000": encoded(smooth, "JPEG2000"),
        "JPEG2000, codestream": encoded(smooth, "JPEG2000", no_jp2=True, num_resolutions=3, codeblock_size=(16, 16)),
        "JPEG2000, blocks": jpeg_2000_with_blocks(900, boxed=True),
        "HEIF": encoded(smooth, "HEIF") if "HEIF" in FORMATS else b"",
    }  # fmt: skip
    if tuple(map(int, PIL.__version__.split(".")[:2])) >= (11, 3):  # earlier versions write damaged ones
        found["JPEG, MPO"] = encoded(smooth, "MPO", **frames)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "group4"):
        image = smooth.convert("1") if compression == "group4" else smooth
        found[f"TIFF, {compression}"] = encoded(image, "TIFF", compression=compression)
    return {name: content for name, content in found.items() if name.split(",")[0] in FORMATS}


def damaged(content: bytes, others: list[bytes], rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    # Half of the damage is in the first 200 bytes, which hold most sizes.
    for _ in range(int(rng.integers(1, 5))):
        place = int(rng.integers(min(len(changed), 200) if rng.integers(2) else len(changed)))
        length = int(rng.integers(1, 40))
        match int(rng.integers(9)):
            case 0:
                changed[place] ^= 1 << int(rng.integers(8))
            case 1:
                changed[place] = int(rng.integers(256))
            case 2:
                del changed[place : place + length]
            case 3:
                start = int(rng.integers(len(changed)))
                changed[place:place] = changed[start : start + length]
            case 4:
                other = others[int(rng.integers(len(others)))]
                start = int(rng.integers(len(other)))
                changed[place : place + length] = other[start : start + length]
            case 5:
                changed[place:] = b""
            case kind:
                size = (1, 2, 4)[kind - 6]
                value = EXTREMES[int(rng.integers(len(EXTREMES)))] % (1 << 8 * size)
                changed[place : place + size] = value.to_bytes(size, "big" if rng.integers(2) else "little")
        if not changed:
            return content[:1]
    return bytes(changed)


def with_checksums(png: bytes) -> bytes:
    """The PNG with a right checksum in each chunk, without which most damage ends at the checksum."""
    fixed, position = bytearray(png), 8
    while position + 12 <= len(fixed):
        (length,) = struct.unpack_from(">I", fixed, position)
        end = position + 8 + length
        if end + 4 > len(fixed):
            break
        struct.pack_into(">I", fixed, end, zlib.crc32(fixed[position + 4 : end]))
        position = end + 4
    return bytes(fixed)


def read(path: Path, rng: np.random.Generator) -> str:
    """ "image" or "ImageError"; any other exception is a failure."""
    try:
        with ImageFile(path, exif_orientation=bool(rng.integers(2)), max_pixels=MAX_PIXELS) as file:
            assert file.orientation in range(1, 9)
            width, height = file.size
            scale = DRAFT_SCALES[int(rng.integers(len(DRAFT_SCALES)))]
            image = file.decode(scale)
            assert image.mode == "RGB" and 0 < image.width * image.height <= width * height <= MAX_PIXELS
    except ImageError as error:
        assert str(error).isprintable() and len(str(error)) < 1000, repr(str(error))
        return "ImageError"
    return "image"


def kibibytes(name: str) -> int:
    found = re.search(
        rf"^{name}:\s*(\d+)", Path("/proc/self/status").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert found is not None
    return int(found[1])


def peak_of(act: Callable[[], str]) -> tuple[str, float]:
    """The result, and the memory in MiB that was resident at most beyond what was before."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts again
    before = kibibytes("VmRSS")
    result = act()
    return result, (kibibytes("VmHWM") - before) / 1024


def main(seconds: float, seed: int, folder: Path) -> None:
    rng = np.random.default_rng(seed)
    valid = valid_images()
    path = folder / "image"
    counts: collections.Counter[str] = collections.Counter()
    slowest, largest = (0.0, ""), (0.0, "")
    warnings.simplefilter("ignore")
    for name, content in valid.items():
        path.write_bytes(content)
        assert read(path, rng) == "image", name
        end, number = time.monotonic() + seconds / len(valid), 0
        while number < FEWEST or time.monotonic() < end:
            number += 1
            changed = damaged(content, list(valid.values()), rng)
            if name.startswith("PNG") and rng.integers(2):
                changed = with_checksums(changed)
            path.write_bytes(changed)
            before = time.process_time()
            try:
                outcome, mebibytes = peak_of(lambda: read(path, rng))
            except Exception as error:
                raise AssertionError(f"{name}, image {number}: {type(error).__name__}: {error}") from error
            counts[f"{name}: {outcome}"] += 1
            slowest = max(slowest, (time.process_time() - before, name))
            largest = max(largest, (mebibytes, name))
    print(json.dumps({"counts": counts, "slowest": slowest, "largest": largest}))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(float(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
