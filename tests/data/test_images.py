from __future__ import annotations

import io
import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from beit.data.images import EXTENSIONS, ImageError, ImageFile, open_image, to_rgb

GRAY = np.array([[0, 1, 128, 255]], np.uint8)


def save(path, image, **options):
    image.save(path, **options)
    return path


def pixels(path, **options):
    image = open_image(path, **options)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_rgb_is_returned_untouched():
    image = Image.new("RGB", (2, 2), (1, 2, 3))
    assert to_rgb(image) is image


def test_gray_is_repeated(tmp_path):
    found = pixels(save(tmp_path / "gray.png", Image.fromarray(GRAY)))
    np.testing.assert_array_equal(found, np.repeat(GRAY[..., None], 3, axis=2))


def test_bilevel(tmp_path):
    found = pixels(save(tmp_path / "one.png", Image.fromarray(GRAY > 100)))
    np.testing.assert_array_equal(found[0, :, 0], [0, 0, 255, 255])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_composited_on_white(tmp_path, mode):
    colors = {
        "RGBA": [(200, 100, 0, 255), (200, 100, 0, 0), (200, 100, 0, 128)],
        "LA": [(9, 255), (9, 0), (9, 51)],
    }
    image = Image.new(mode, (3, 1))
    for x, value in enumerate(colors[mode]):
        image.putpixel((x, 0), value)
    found = pixels(save(tmp_path / "alpha.png", image)).astype(float)
    for x, (*color, alpha) in enumerate(colors[mode]):
        expected = np.broadcast_to(color, 3) * alpha / 255 + 255 * (1 - alpha / 255)
        np.testing.assert_allclose(found[0, x], expected, atol=0.51)


def palette():
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    return image


def test_palette(tmp_path):
    found = pixels(save(tmp_path / "palette.png", palette()))
    np.testing.assert_array_equal(found, [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]])


@pytest.mark.parametrize(
    ("transparency", "expected"), [(1, [255, 255, 255]), (b"\xff\x80\xff", [147, 152, 157])]
)
def test_palette_with_transparency_is_composited(tmp_path, transparency, expected):
    found = pixels(save(tmp_path / "palette.png", palette(), transparency=transparency))
    np.testing.assert_array_equal(found, [[[10, 20, 30], expected, [70, 80, 90]]])


def test_transparent_color_key_is_white(tmp_path):
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (9, 9, 9))
    found = pixels(save(tmp_path / "key.png", image, transparency=(1, 2, 3)))
    np.testing.assert_array_equal(found, [[[255, 255, 255], [9, 9, 9]]])


def test_cmyk_jpeg(tmp_path):
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, full magenta and yellow: red
    found = pixels(save(tmp_path / "cmyk.jpg", image, quality=100))
    np.testing.assert_allclose(found[8, 8], [255, 0, 0], atol=2)


def test_adobe_ycck_jpeg(tmp_path):
    """Decoders that ignore Adobe's marker for YCbCr of inverted CMYK return inverted colors."""
    stream = io.BytesIO()
    Image.new("CMYK", (16, 16), (0, 0, 0, 51)).save(stream, "JPEG", quality=100)
    data = bytearray(stream.getvalue())
    marker = data.index(b"Adobe")
    assert data[marker + 11] == 0  # CMYK
    data[marker + 11] = 2  # YCCK; neutral chroma is 128
    (tmp_path / "ycck.jpg").write_bytes(data)
    with Image.open(tmp_path / "ycck.jpg") as image:
        expected = np.asarray(image.convert("RGB"))
    assert image.mode == "CMYK"
    np.testing.assert_array_equal(pixels(tmp_path / "ycck.jpg"), expected)


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_sixteen_bits_are_scaled_not_saturated(tmp_path, name):
    values = np.array([[0, 128, 129, 257, 32768, 65406, 65407, 65535]], np.uint16)
    found = pixels(save(tmp_path / name, Image.fromarray(values)))
    np.testing.assert_array_equal(found[0, :, 1], np.rint(values[0] / 257))


def test_sixteen_bit_pgm(tmp_path):
    (tmp_path / "deep.pgm").write_bytes(b"P5 2 1 65535\n" + struct.pack(">2H", 257 * 7, 65535))
    np.testing.assert_array_equal(pixels(tmp_path / "deep.pgm")[0, :, 0], [7, 255])


def test_big_endian_sixteen_bits():
    image = Image.frombytes("I;16B", (2, 1), struct.pack(">2H", 257 * 7, 65535))
    np.testing.assert_array_equal(np.asarray(to_rgb(image))[0, :, 0], [7, 255])


def test_float_tiff_on_unit_range(tmp_path):
    values = np.array([[0.0, 0.25, 1.0]], np.float32)
    found = pixels(save(tmp_path / "float.tif", Image.fromarray(values)))
    np.testing.assert_array_equal(found[0, :, 2], [0, 64, 255])


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (np.array([[0, 2.5]], np.float32), "float pixels from 0 to 2.5; expected 0 to 1"),
        (np.array([[0, np.nan]], np.float32), "float pixels .*expected 0 to 1"),
        (np.array([[0, 70000]], np.int32), "integer pixels from 0 to 70000; expected 16 bits"),
        (np.array([[-1, 5]], np.int32), "integer pixels from -1 to 5"),
    ],
)
def test_pixels_of_undeclared_range_are_refused(tmp_path, values, match):
    path = save(tmp_path / "range.tif", Image.fromarray(values))
    with pytest.raises(ImageError, match=match):
        open_image(path)


@pytest.mark.parametrize("name", ["moving.gif", "moving.webp", "pages.tif"])
def test_the_first_frame_of_an_animation_is_read(tmp_path, name):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    options = {"lossless": True} if name.endswith("webp") else {}
    path = save(tmp_path / name, frames[0], save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(pixels(path)[0, 0], [255, 0, 0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_optional(tmp_path, orientation):
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "turned.png", Image.fromarray(upright), exif=exif)
    turned = {  # EXIF 2.3, 4.6.4 A: the meaning of row 0 and column 0 of the stored image
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright[::-1].T,
        7: upright[::-1, ::-1].T,
        8: upright.T[::-1],
    }[orientation]
    np.testing.assert_array_equal(pixels(path)[..., 0], upright)
    np.testing.assert_array_equal(pixels(path, exif_orientation=True)[..., 0], turned)


def test_too_many_pixels_are_refused_from_the_header(tmp_path):
    path = save(tmp_path / "large.png", Image.new("L", (20, 11)))
    assert open_image(path, max_pixels=220).size == (20, 11)
    with pytest.raises(ImageError, match=r"20 x 11 pixels are more than DATA.MAX_PIXELS=219 allows"):
        open_image(path, max_pixels=219)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize(
    "side", [10_000, 60_000]
)  # 100 million pixels: Pillow warns; 3600 million: it raises
def test_decompression_bombs_are_refused(tmp_path, side):
    limit = Image.MAX_IMAGE_PIXELS
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")))
    with pytest.raises(ImageError, match="pixels .*DATA.MAX_PIXELS=1000000 allow"):
        open_image(tmp_path / "bomb.png", max_pixels=1_000_000)
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "an empty file"),
        (b"\0" * 4096, "begins with zeros only"),
        (b"\n<!DOCTYPE html><html>404</html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "run `git lfs pull`"),
        (b"hello, this is text", "no image in one of the formats JPEG, PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no image in one of the formats"),
    ],
)
def test_files_that_are_not_images_are_refused(tmp_path, content, match):
    path = tmp_path / "no.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=match) as info:
        open_image(path)
    assert str(info.value).startswith(f"{path}: ")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.bmp", "a.tif", "a.webp", "a.ppm"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated_files_are_refused(tmp_path, name, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / name, Image.fromarray(noise))
    data = path.read_bytes()
    assert pixels(path).shape == (64, 64, 3)
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match="cannot be decoded|damaged header"):
        open_image(path)


def test_wrong_extension_does_not_matter(tmp_path):
    path = save(tmp_path / "really_a_png.jpg", Image.new("RGB", (1, 1), "blue"), format="PNG")
    np.testing.assert_array_equal(pixels(path), [[[0, 0, 255]]])


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(ImageError, match="nowhere.jpg: no such file"):
        open_image(tmp_path / "nowhere.jpg")
    with pytest.raises(ImageError, match="a folder, not an image"):
        open_image(tmp_path)


def test_error_survives_pickling():
    error = pickle.loads(pickle.dumps(ImageError("a.jpg", "an empty file")))
    assert (error.path, error.reason, str(error)) == ("a.jpg", "an empty file", "a.jpg: an empty file")


def smooth(width, height):
    """An image of low frequencies, which scaling keeps."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 31 + y / 47), np.cos(x / 53), np.sin(y / 37)]
    return Image.fromarray((128 + 80 * np.stack(waves, -1)).astype(np.uint8))


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_a_jpeg_is_decoded_smaller_and_keeps_its_full_size(tmp_path, scale):
    path = save(tmp_path / "a.jpg", smooth(243, 161), quality=95)
    with ImageFile(path) as file:
        assert file.size == (243, 161)
        found = file.decode(scale)
        assert file.size == (243, 161)
    assert found.size == (-(-243 // scale), -(-161 // scale))
    expected = open_image(path).reduce(scale)
    error = np.abs(np.asarray(found).astype(int) - np.asarray(expected))
    assert error.max() <= (0 if scale == 1 else 4)


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_the_smaller_size_is_exact_for_every_size_that_can_be_reduced(tmp_path, scale):
    for side in range(scale, 80):
        path = save(tmp_path / "a.jpg", Image.new("RGB", (side, 81)))
        with ImageFile(path) as file:
            assert file.decode(scale).size == (-(-side // scale), -(-81 // scale))


def test_only_a_jpeg_is_decoded_smaller(tmp_path):
    path = save(tmp_path / "a.png", smooth(64, 48))
    with ImageFile(path) as file:
        assert file.decode(2).size == file.size == (64, 48)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
def test_the_full_size_is_that_of_the_rotated_image(tmp_path, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / name, smooth(160, 96), exif=exif)
    full = (96, 160) if orientation >= 6 else (160, 96)
    with ImageFile(path, exif_orientation=True) as file:
        assert file.size == full
        found = file.decode(4)
    assert found.size == ((full[0] // 4, full[1] // 4) if name == "a.jpg" else full)
    if name == "a.jpg":
        with ImageFile(path) as file:
            assert file.size == (160, 96)
            assert file.decode(4).size == (40, 24)


def test_a_truncated_jpeg_is_noticed_also_when_decoded_smaller(tmp_path):
    path = save(tmp_path / "a.jpg", smooth(320, 240))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with ImageFile(path) as file, pytest.raises(ImageError, match="truncated"):
        file.decode(4)


def test_errors_in_the_block_are_not_errors_of_the_file(tmp_path):
    path = save(tmp_path / "a.png", smooth(4, 4))
    with pytest.raises(ValueError, match=r"^a mistake of ours$"), ImageFile(path):
        raise ValueError("a mistake of ours")


@pytest.mark.parametrize("ending", sorted(EXTENSIONS))
def test_a_file_with_each_ending_is_decoded(tmp_path, ending):
    """The endings are Pillow's, and those that Pillow writes are read back."""
    registered = Image.registered_extensions()
    name = registered[ending]
    path = tmp_path / f"a{ending}"
    if ending == ".pfm":
        Image.fromarray(np.full((6, 8), 0.5, np.float32)).save(path)
    elif ending == ".pbm":
        Image.new("1", (8, 6)).save(path)
    else:
        Image.new("RGB", (8, 6), (90, 90, 90)).save(path, save_all=name == "MPO")
    image = open_image(path)
    assert (image.mode, image.size) == ("RGB", (8, 6))


@pytest.mark.parametrize(("size", "smaller"), [((3, 40), (2, 20)), ((1, 1), (1, 1)), ((16, 40), (2, 5))])
def test_a_thin_jpeg_is_decoded_no_smaller_than_one_pixel(tmp_path, size, smaller):
    with ImageFile(save(tmp_path / "thin.jpg", Image.new("RGB", size))) as file:
        assert file.decode(8).size == smaller


def test_a_message_of_a_decoder_is_one_line(tmp_path, monkeypatch):
    def fail(self):
        raise OSError("two\nlines \x1b[2J\n")

    path = save(tmp_path / "a.png", Image.new("RGB", (2, 2)))
    monkeypatch.setattr(Image.Image, "load", fail)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(ImageError, match=r"cannot be decoded: two lines \\x1b\[2J$"):
        open_image(path)
