"""The segmentation predictor, its overlays and class areas."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from PIL import Image

from beit.data.scenes import draw_scene
from beit.models.upernet import build_upernet
from beit.predict.inference import load_predictor
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
    return load_predictor(folder / "best.pdparams", config=upernet_config(DATA__RESIZE_LIMITS=[32, 24]))


def test_results_summary_and_drawings(segmenter):
    image = draw_scene(np.random.default_rng(0))[0]
    (result,) = segmenter([image])
    classes = result["pred_sem_seg"]
    np.testing.assert_array_equal(classes, segmenter.class_map(image))
    assert sum(row["pixels"] for row in result["classes"]) == 96 * 128
    for row in result["classes"]:
        assert row["pixels"] == (classes == row["class"]).sum() and row["name"] == NAMES[row["class"]]
    largest = result["classes"][0]
    assert segmenter.summary(result, topk=1) == {
        "topk": [{"class": largest["name"], "label": largest["class"], "score": largest["share"]}]
    }
    drawn = segmenter.draw(image, result)
    assert list(drawn) == ["overlay", "classes"]
    assert drawn["classes"].mode == "P" and drawn["classes"].size == (128, 96)
    np.testing.assert_array_equal(np.asarray(drawn["classes"]), classes)
    assert drawn["overlay"].height >= 96 and drawn["overlay"].width > 128


def test_classes_are_numbered_if_no_files_are_beside_the_weights(tmp_path):
    paddle.save(build_upernet(upernet_config()).state_dict(), str(tmp_path / "w.pdparams"))
    segmenter = load_predictor(tmp_path / "w.pdparams", config=upernet_config())
    assert segmenter.class_names == tuple(f"class {k}" for k in range(UPERNET["MODEL__NUM_CLASSES"]))
    assert len(segmenter.palette) == UPERNET["MODEL__NUM_CLASSES"]


def test_overlay_blends_colors_and_lists_classes_by_area():
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


def test_the_legend_of_many_classes_is_cut():
    classes = np.arange(100, dtype=np.uint8).reshape(10, 10)
    names = [f"class {k}" for k in range(100)]
    drawn = overlay_classes(Image.new("RGB", (10, 10)), classes, names, [(1, 2, 3)] * 100)
    assert drawn.height < 600
