from __future__ import annotations

import os
import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageFile

from beit.data.decoding_limits import MAX_CODE_BLOCKS, MAX_SCANS, _codestream, _count_code_blocks
from beit.data.images import FORMATS, MAX_PIXELS, ImageError, open_image
from tests.hostile_images import (
    encoded,
    jpeg_2000_with_blocks,
    jpeg_2000_with_box,
    progressive_jpeg,
    run_length_bmp,
    tiff_with_tile,
)

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8))


def opened(content):
    return open_image("picture", data=content)


def test_the_scans_of_a_progressive_jpeg_are_limited():
    usual = encoded(NOISE, "JPEG", progressive=True)
    assert usual.count(b"\xff\xda") == 10
    expected = np.asarray(opened(usual))
    allowed = progressive_jpeg(usual, MAX_SCANS)
    np.testing.assert_array_equal(np.asarray(opened(allowed)), expected)
    with pytest.raises(ImageError, match="a JPEG of 101 or more scans, at most 100 are read"):
        opened(progressive_jpeg(usual, MAX_SCANS + 1))


def test_scan_markers_in_metadata_and_after_the_image_are_no_scans():
    noise = encoded(NOISE, "JPEG", comment=b"\xff\xda" * 200) + b"\xff\xda\x00\x02" * 200
    np.testing.assert_array_equal(np.asarray(opened(noise)), np.asarray(opened(encoded(NOISE, "JPEG"))))


def test_a_run_length_encoded_bmp_has_a_limit_of_its_own():
    assert opened(run_length_bmp(4, 3, b"\x04\x07\x00\x00" * 3 + b"\x00\x01")).size == (4, 3)
    with pytest.raises(ImageError, match="a run-length encoded BMP of 4097 x 4096 pixels, at most 16777216"):
        opened(run_length_bmp(4097, 4096, b"\x00\x01"))
    assert opened(encoded(Image.new("L", (4097, 4096)), "BMP")).size == (4097, 4096)


def test_a_tile_may_be_larger_than_the_image_up_to_a_limit():
    assert opened(tiff_with_tile(16, 256)).size == (16, 16)
    with pytest.raises(ImageError, match="a tile of 576000000 pixels for an image of 16 x 16"):
        opened(tiff_with_tile(16, 24000))


@pytest.mark.parametrize("boxed", [True, False])
def test_the_code_blocks_of_a_jpeg_2000_are_limited(boxed):
    options = {"precinct_size": (64, 64), "num_resolutions": 3, "codeblock_size": (16, 16)}
    assert opened(encoded(NOISE, "JPEG2000", no_jp2=not boxed, **options)).size == NOISE.size
    hostile = jpeg_2000_with_blocks(9000, boxed=boxed)
    assert len(hostile) < 1500
    with pytest.raises(ImageError, match="a JPEG 2000 of 6...... code blocks, at most 262144 are read"):
        opened(hostile)


def test_the_largest_jpeg_2000_with_usual_code_blocks_is_within_the_limit():
    content = jpeg_2000_with_blocks(13377, boxed=True, block=64, mode="RGB")
    assert 13377**2 <= MAX_PIXELS < 13378**2
    expected = 3 * 13377**2 / 4096 * 4 / 3  # the smaller resolutions add a third
    assert _count_code_blocks(_codestream(content)) == pytest.approx(expected, rel=1e-3)
    assert expected < MAX_CODE_BLOCKS


def test_a_header_that_claims_gigabytes_takes_no_more_memory_than_the_file(tmp_path):
    (tmp_path / "a.jp2").write_bytes(jpeg_2000_with_box(8 << 30))
    tracemalloc.start()
    with pytest.raises(ImageError, match="cannot be decoded"):
        open_image(tmp_path / "a.jp2")
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match=r"pipe.png: .*a named pipe, socket or device, not a regular file"):
        open_image(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a regular file"):
        open_image("/dev/zero")


def test_a_failed_allocation_is_no_fault_of_the_file(monkeypatch, tmp_path):
    path = tmp_path / "a.png"
    NOISE.save(path)

    def fail(self):
        raise ImageFile._get_oserror(-9, encoder=False)

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(MemoryError, match=r"decoding .*a.png"):
        open_image(path)


@pytest.mark.skipif("AVIF" not in FORMATS, reason="Pillow reads AVIF from 11.3 on")
def test_a_damaged_avif_is_refused():
    content = bytearray(encoded(NOISE, "AVIF"))
    content[content.index(b"mdat") + 4 :] = bytes(len(content) - content.index(b"mdat") - 4)
    with pytest.raises(ImageError, match="cannot be decoded"):
        opened(bytes(content))
