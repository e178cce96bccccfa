"""The figures that Python programs get: their contents, and that no window system or global state is involved."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

import beit
from beit.figures import Tile, draw_tiles, end_of, figure_pixels, save_image
from beit.predict.attention_maps import overlay
from beit.predict.predictions import CONFUSION_TITLES, Predictions, write_confusions


@pytest.fixture
def predictions(example_folder):
    """Of the ten validation images, one of each class."""
    return beit.validation_predictions("output/run", data_path="digits", device="cpu")


def titles(figure: Figure) -> list[str]:
    return [axis.get_title() for axis in figure.axes]


def test_predictions_show_mistakes_first(predictions):
    figure = beit.draw_predictions(predictions, count=8)
    wrong = int((predictions.scores.argmax(-1) != predictions.labels).sum())
    shown = titles(figure)
    assert wrong > 0 and len(shown) == 8
    assert all(" %\nis " in title for title in shown[:wrong])
    assert all(title.endswith(" %") for title in shown[wrong:])
    assert f"10 images, {wrong} wrong" in figure.get_suptitle()


def test_confusion_is_the_share_of_each_true_class(predictions):
    figure = beit.draw_confusion(predictions)
    (image,) = figure.axes[0].images
    np.testing.assert_array_equal(image.get_array(), predictions.confusion)  # one image of each class
    names = [f"digit {number}" for number in range(10)]  # of the weights: the data have none
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == names


def test_a_title_of_three_lines_lies_above_the_images_of_a_tall_figure():
    tile = Tile(np.zeros((8, 8, 3), np.uint8), "image\nis a class")
    figure = draw_tiles([tile] * 40, columns=2, title="A\nB\n40 images")
    figure_pixels(figure)
    bottom = figure._suptitle.get_window_extent().y0
    assert bottom > max(axis.title.get_window_extent().y1 for axis in figure.axes)
    assert figure._suptitle.get_window_extent().y1 < figure.bbox.y1


def test_long_names_over_images_are_cut_visibly():
    assert end_of("горы/20240501_phone.JPG", 22) == "…ры/20240501_phone.JPG"
    assert end_of("a.jpg", 5) == "a.jpg"


def test_curves_state_percent(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "train/loss": 1, "val/top1": 50}))
    assert [axis.get_ylabel() for axis in beit.draw_curves(tmp_path).axes] == ["", "%"]


@pytest.mark.parametrize(("top5", "panels"), [((100, 100), ["loss"]), ((90, 100), ["loss", "top5"])])
def test_curves_leave_out_a_top5_that_always_is_100_percent(tmp_path, top5, panels):
    lines = [json.dumps({"step": k, "val/loss": 1, "val/top5": value}) for k, value in enumerate(top5)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert titles(beit.draw_curves(tmp_path)) == panels


def test_the_table_of_confusions(tmp_path):
    """a: 3 correct, 1 predicted as b; b: 2 correct; c has no images and is never predicted."""
    labels, predicted = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 1, 0, 1, 1])
    dataset = SimpleNamespace(images=SimpleNamespace(labels=labels))
    found = Predictions("model", dataset, np.eye(3)[predicted], ("a", "b", "c"))
    assert write_confusions(found, tmp_path / "new" / "confusion.csv").read_text().splitlines() == [
        ",".join(CONFUSION_TITLES),
        "0,a,4,100.00,75.00,85.71,b",
        "1,b,2,66.67,100.00,80.00,",
        "2,c,0,,,,",
    ]


def test_predictions_of_several_labels_show_wrong_and_missed_classes():
    """The second image has b for a false a, and misses c; the third has no class and needs none."""
    truth = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 0]], bool)
    scores = np.array([[0.9, 0.6, 0.1], [0.8, 0.7, 0.2], [0.1, 0.45, 0.3]])
    dataset = SimpleNamespace(
        images=SimpleNamespace(labels=truth), original=lambda index: np.zeros((4, 4, 3), np.uint8)
    )
    found = Predictions("model", dataset, scores, ("a", "b", "c"), threshold=0.5)
    figure = beit.draw_predictions(found)
    assert titles(figure)[:3] == ["a: 80 %\nb: 70 %\nwrong: a\nmissed: c", "no class", "a: 90 %\nb: 60 %"]
    assert "3 images, 1 with wrong or missed classes" in figure.get_suptitle()
    with pytest.raises(ValueError, match="`beit evaluate` writes classes.csv"):
        beit.draw_confusion(found)


def test_sets_of_labels_are_not_drawn(example_folder):
    with pytest.raises(ValueError, match=r"leave out TEST\.REAL_LABELS"):
        beit.validation_predictions("output/run", real_labels="real.json", device="cpu")


def test_curves_hold_the_numbers_of_the_log(example_folder):
    figure = beit.draw_curves("output/run")
    assert titles(figure) == ["loss"]
    train, val = figure.axes[0].lines
    np.testing.assert_allclose(train.get_ydata(), [2, 1.9, 1.8, 1.7, 1.6])
    np.testing.assert_allclose(val.get_xdata(), range(5))


def test_augmentation_has_the_image_and_seven_views(example_folder):
    figure = beit.draw_augmentation("output/run", ["photo.jpg"])
    assert titles(figure) == ["photo.jpg", *[""] * 7]
    with Image.open("photo.jpg") as image:
        np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), np.asarray(image.convert("RGB")))


def test_attention_takes_a_model_and_images_of_any_kind(example_folder):
    first = beit.draw_attention("output/run", "photo.jpg", blocks=[1])
    with Image.open("photo.jpg") as image:
        again = beit.draw_attention(beit.load_predictor("output/run"), image.convert("RGB"), blocks=[1])
    assert titles(first)[0].startswith("photo.jpg\ndigit ") and titles(again)[0].startswith("digit ")
    assert titles(first)[1:] == titles(again)[1:]
    for one, other in zip(first.axes, again.axes, strict=True):
        for drawn, expected in zip(one.images, other.images, strict=True):
            np.testing.assert_array_equal(drawn.get_array(), expected.get_array())
    with pytest.raises(ValueError, match="block 7 does not exist; the model has blocks 0 to 2"):
        beit.draw_attention("output/run", "photo.jpg", blocks=[7])


def test_cam_shows_the_rollout_and_the_classes(example_folder):
    predictor = beit.load_predictor("output/run")
    figure = beit.draw_cam(predictor, ["photo.jpg", "pictures/a.png"], classes=["digit 3", 7])
    shown = titles(figure)
    assert len(shown) == 8 and shown[5] == "rollout,\nall blocks"
    assert [title.partition("\n")[0] for title in shown[2:4]] == ["Grad-CAM, digit 3", "Grad-CAM, digit 7"]
    image = predictor.open("photo.jpg")
    view = predictor.view(image).resize((128, 128), Image.Resampling.NEAREST)
    for axis, label in zip(figure.axes[2:4], (3, 7), strict=True):
        expected = overlay(view, predictor.grad_cam(image, label))
        np.testing.assert_array_equal(axis.images[0].get_array(), np.asarray(expected))
    best = [entry["class"] for entry in predictor([image])[0]["topk"][:2]]
    assert [
        title.split("\n")[0].split(", ")[1] for title in titles(beit.draw_cam(predictor, image))[2:]
    ] == best


def test_no_figure_is_open_in_pyplot(example_folder):
    """A notebook would show it twice, and would keep it for ever."""
    before, backend = plt.get_fignums(), plt.get_backend()
    figures = [beit.draw_curves("output/run"), beit.draw_schedule("demo_digits", images=100)]
    assert all(isinstance(figure, Figure) for figure in figures)
    assert (plt.get_fignums(), plt.get_backend()) == (before, backend)


def test_an_image_is_written_whole_or_not_at_all(tmp_path):
    path = save_image(Image.new("RGB", (4, 4), "red"), tmp_path / "a.png")
    before = path.read_bytes()
    with pytest.raises(OSError, match="cannot write mode F as PNG"):
        save_image(Image.new("F", (4, 4)), path)
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["a.png"]
