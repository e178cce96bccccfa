from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
from PIL import Image

from beit.data.scenes import draw_scene
from beit.models.upernet import build_upernet
from beit.predict.segmentation import load_segmenter, predict_files
from beit.predict.segmentation_overlays import class_areas, overlay_classes, palette_image
from tests.tiny import UPERNET, upernet_config

NAMES = ("road", "car", "sky", "tree")
PALETTE = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9))


@pytest.fixture
def segmenter(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    paddle.seed(1)
    model = build_upernet(upernet_config())
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.set_value(paddle.randn(parameter.shape) * 0.2)
    paddle.save(model.state_dict(), str(folder / "best.pdparams"))
    (folder / "class_names.txt").write_text("\n".join(NAMES))
    (folder / "palette.txt").write_text("\n".join(" ".join(map(str, color)) for color in PALETTE))
    return load_segmenter(
        upernet_config(MODEL__PRETRAINED=str(folder / "best.pdparams"), DATA__RESIZE_LIMITS=[32, 24])
    )


def test_a_folder_of_pictures(segmenter, tmp_path):
    source, output = tmp_path / "pictures", tmp_path / "out"
    source.mkdir()
    for k, name in enumerate(("a.png", "b.png", "b.jpg")):
        draw_scene(np.random.default_rng(k))[0].save(source / name)
    (source / "broken.jpg").write_bytes(b"nothing")
    (source / "notes.txt").write_text("no picture")
    entries = {entry["image"].rsplit("/", 1)[1]: entry for entry in predict_files(segmenter, source, output)}
    assert set(entries) == {"a.png", "b.jpg", "b.png", "broken.jpg"}
    assert "no image" in entries["broken.jpg"]["error"]
    assert {path.name for path in output.iterdir()} == {
        f"{stem}{end}"
        for stem in ("a", "b.png", "b.jpg")
        for end in (".json", "_classes.png", "_overlay.png")
    }
    entry = json.loads((output / "a.json").read_text())
    assert entry == entries["a.png"] and (entry["height"], entry["width"]) == (96, 128)
    with Image.open(output / "a_classes.png") as file:
        classes = np.array(file)
        assert file.mode == "P" and file.size == (128, 96)
    with Image.open(source / "a.png") as image:
        np.testing.assert_array_equal(classes, segmenter(image.convert("RGB")))
    assert sum(row["pixels"] for row in entry["classes"]) == 96 * 128
    for row in entry["classes"]:
        assert row["pixels"] == (classes == row["class"]).sum() and row["name"] == NAMES[row["class"]]
    with Image.open(output / "a_overlay.png") as overlay:
        assert overlay.height >= 96 and overlay.width > 128


def test_one_picture_and_things_that_are_missing(segmenter, tmp_path):
    draw_scene(np.random.default_rng(0))[0].save(tmp_path / "a.png")
    assert len(predict_files(segmenter, tmp_path / "a.png", tmp_path / "out")) == 1
    with pytest.raises(FileNotFoundError, match="name a picture or a folder"):
        predict_files(segmenter, tmp_path / "nothing.png", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no pictures"):
        predict_files(segmenter, tmp_path / "empty", tmp_path / "out")
    with pytest.raises(ValueError, match="MODEL.PRETRAINED is not set"):
        load_segmenter(upernet_config())


def test_without_files_beside_the_weights_classes_have_numbers(tmp_path):
    paddle.save(build_upernet(upernet_config()).state_dict(), str(tmp_path / "w.pdparams"))
    segmenter = load_segmenter(upernet_config(MODEL__PRETRAINED=str(tmp_path / "w.pdparams")))
    assert segmenter.class_names == tuple(f"class {k}" for k in range(UPERNET["MODEL__NUM_CLASSES"]))
    assert len(segmenter.palette) == UPERNET["MODEL__NUM_CLASSES"]


def test_overlay_mixes_colors_and_lists_classes_by_area():
    classes = np.zeros((40, 60), np.uint8)
    classes[:10] = 2
    image = Image.new("RGB", (60, 40), (100, 100, 100))
    pixels = np.array(overlay_classes(image, classes, NAMES, PALETTE))
    assert tuple(pixels[0, 0]) == (50, 50, 178) and tuple(pixels[39, 59]) == (178, 50, 50)
    legend = pixels[:, 60:]
    for color in (PALETTE[0], PALETTE[2]):
        assert (legend == color).all(-1).any()
    assert not (legend == PALETTE[1]).all(-1).any()
    assert [row["name"] for row in class_areas(classes, NAMES)] == ["road", "sky"]
    assert class_areas(classes, NAMES)[1] == {"class": 2, "name": "sky", "pixels": 600, "share": 0.25}
    np.testing.assert_array_equal(np.array(palette_image(classes, PALETTE)), classes)


def test_a_legend_of_many_classes_ends():
    classes = np.arange(100, dtype=np.uint8).reshape(10, 10)
    names = [f"class {k}" for k in range(100)]
    picture = overlay_classes(Image.new("RGB", (10, 10)), classes, names, [(1, 2, 3)] * 100)
    assert picture.height < 600
