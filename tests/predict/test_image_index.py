"""The index of images: what is computed again and what is kept, the nearest images, and the figures."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

import beit
from beit.__main__ import main
from beit.predict.classifier import Classifier
from beit.predict.index_figures import place


@pytest.fixture
def predictor(example_folder):
    return beit.load_predictor("output/run")


@pytest.fixture
def computed(monkeypatch):
    """Number of images of each call that computes features."""
    calls, features = [], Classifier.features
    monkeypatch.setattr(
        Classifier, "features", lambda self, images: calls.append(len(images)) or features(self, images)
    )
    return calls


def test_nearest_images_by_the_cosine(predictor):
    index = beit.open_index(predictor, ["flowers", "pictures"])
    features = [beit.extract_feat(predictor, file).astype(np.float64) for file in index.files]
    query = beit.extract_feat(predictor, "photo.jpg").astype(np.float64)
    cosines = [query @ row / np.linalg.norm(query) / np.linalg.norm(row) for row in features]
    (found,) = index.nearest("photo.jpg", topk=4)
    order = np.argsort(cosines)[::-1][:4]
    assert [entry["image"] for entry in found] == [str(index.files[k]) for k in order]
    np.testing.assert_allclose([entry["similarity"] for entry in found], np.array(cosines)[order], atol=1e-6)
    both = index.nearest([str(index.files[3]), "photo.jpg"], topk=100)
    assert both[0][0] == {"image": str(index.files[3]), "similarity": pytest.approx(1.0)}
    assert [len(rows) for rows in both] == [10, 10]
    assert [entry["image"] for entry in both[1][:4]] == [entry["image"] for entry in found]
    with pytest.raises(ValueError, match="topk=0; expected 1 or more"):
        index.nearest("photo.jpg", topk=0)


def test_only_new_images_are_computed(predictor, computed):
    first = beit.open_index(predictor, ["flowers"], "index.npz", batch_size=3)
    assert computed == [3, 3, 2]
    Path("flowers/rose/0.png").rename("flowers/rose/9.png")
    shutil.copy("photo.jpg", "flowers/rose/5.jpg")
    Path("flowers/daisy/0.png").unlink()
    del computed[:]
    second = beit.open_index(predictor, ["flowers"], "index.npz")
    assert computed == [1]
    names = [str(file.relative_to(Path("flowers").absolute())) for file in second.files]
    assert names == ["daisy/1.png", "daisy/2.png", "daisy/3.png", "daisy/4.png", "rose/1.png", "rose/2.png", "rose/5.jpg", "rose/9.png"]  # fmt: skip
    np.testing.assert_array_equal(second.features[:4], first.features[1:5])
    np.testing.assert_array_equal(second.features[7], first.features[5])
    np.testing.assert_allclose(second.features, beit.open_index(predictor, ["flowers"]).features, atol=1e-6)


def test_an_index_file_answers_without_its_images(predictor, computed):
    first = beit.open_index(predictor, ["flowers"], "index.npz")
    shutil.rmtree("flowers")
    del computed[:]
    again = beit.open_index(predictor, file="index.npz")
    assert computed == [] and again.files == first.files
    np.testing.assert_array_equal(again.features, first.features)


@pytest.mark.parametrize("file", ["absent/index.npz", "flowers", "photo.jpg"])
def test_a_bad_index_file_is_found_before_the_model_is_loaded(example_folder, file, monkeypatch):
    monkeypatch.setattr("beit.predict.image_index.load_predictor", None)
    with pytest.raises((OSError, ValueError), match=file):
        beit.open_index("output/run", ["flowers"], file)
    with pytest.raises((OSError, ValueError), match=file):
        beit.open_index("output/run", file=file)


def test_features_of_another_model_are_computed_again(predictor, computed):
    beit.open_index(predictor, ["more", "flowers"], "index.npz")
    state = predictor.model.state_dict()
    state["fc_norm.bias"].set_value(state["fc_norm.bias"] + 1.0)
    with pytest.raises(ValueError, match=r"index\.npz has the features of another model"):
        beit.open_index(predictor, file="index.npz")
    del computed[:]
    changed = beit.open_index(predictor, ["more", "flowers"], "index.npz")
    assert sum(computed) == 9
    np.testing.assert_array_equal(beit.open_index(predictor, file="index.npz").features, changed.features)


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ("flowers", {"batch_size": -1}, "batch_size=-1; expected 1 or more"),
        (None, {}, "name the images, or an index"),
    ],
)
def test_wrong_arguments_are_named(predictor, images, options, message):
    with pytest.raises(ValueError, match=message):
        beit.open_index(predictor, images, **options)


def test_files_that_are_no_index_stay(predictor):
    with pytest.raises(FileNotFoundError, match=r"the index none\.npz does not exist"):
        beit.open_index(predictor, file="none.npz")
    np.savez("other.npz", features=np.zeros((2, 3)))
    Path("notes.npz").write_text("a person's notes")
    Path("photo.npz").write_bytes(Path("photo.jpg").read_bytes())
    with Path("array.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    beit.open_index(predictor, "more", "shorter.npz")
    with np.load("shorter.npz") as stored:
        arrays = dict(stored)
    changes = {
        "shorter": {"names": arrays["names"][:0]},
        "flat": {"digests": arrays["digests"][:, 0]},
        "number": {"features": np.float32(1)},
        "text": {"features": arrays["features"].astype(str)},
        "nan": {"features": arrays["features"] * np.nan},
    }
    for name, change in changes.items():
        np.savez(f"{name}.npz", **arrays | change)
    damaged = bytearray(Path("shorter.npz").read_bytes())
    damaged[damaged.index(b"PK\x01\x02") + 8] |= 1  # "encrypted", in the table of contents
    Path("damaged.npz").write_bytes(damaged)
    names = ("other", "notes", "photo", "array", "damaged", *changes)
    for name in (f"{name}.npz" for name in names):
        before = Path(name).read_bytes()
        with pytest.raises(ValueError, match=f"{name} is not an index of images"):
            beit.open_index(predictor, ["flowers"], name)
        assert Path(name).read_bytes() == before


def test_unreadable_images_are_named_and_left_out(predictor):
    Path("flowers/rose/1.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match=r"rose/1\.png.*it is not in the index"):
        index = beit.open_index(predictor, ["flowers"])
    assert len(index.files) == len(index.features) == 7
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="none of the 1 images can be read"):
        beit.open_index(predictor, ["flowers/rose/1.png"])


def test_the_map_of_two_principal_components():
    """Distances on the map equal those of the eigenvectors of the covariance."""
    features = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32) * [5, 3, 1, 1, 1, 1]
    points, caption = place(features, "pca")
    values, vectors = np.linalg.eigh(np.cov(features.T))
    expected = (features - features.mean(0)) @ vectors[:, [-1, -2]]
    np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-4)
    assert f"{100 * values[-2:].sum() / values.sum():.0f} % of the variance" in caption


def test_tsne_separates_two_clusters():
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.standard_normal((30, 5)), rng.standard_normal((30, 5)) + 20]).astype(
        np.float32
    )
    points, caption = place(features, "tsne")
    assert caption == "t-SNE, perplexity 20"
    within = max(np.linalg.norm(part - part.mean(0), axis=1).max() for part in (points[:30], points[30:]))
    assert np.linalg.norm(points[:30].mean(0) - points[30:].mean(0)) > within
    with pytest.raises(ValueError, match='expected "pca" or "tsne"'):
        place(features, "umap")


def test_tsne_without_scikit_learn(monkeypatch):
    monkeypatch.setattr("beit.predict.index_figures.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "beit-paddle\[tsne\]", or take pca'):
        place(np.zeros((4, 2), np.float32), "tsne")


def test_the_figure_of_features_has_a_thumbnail_per_image(predictor):
    from matplotlib.offsetbox import AnnotationBbox

    index = beit.open_index(predictor, ["flowers"])
    figure = beit.draw_features(index)
    boxes = [artist for artist in figure.axes[0].artists if isinstance(artist, AnnotationBbox)]
    np.testing.assert_allclose([box.xybox for box in boxes], place(index.features, "pca")[0])
    with Image.open(index.files[2]) as image:
        np.testing.assert_array_equal(boxes[2].offsetbox.get_data(), np.asarray(image))
    colors = [box.patch.get_edgecolor() for box in boxes]
    assert len(set(colors[:5])) == len(set(colors[5:])) == 1 and colors[0] != colors[5]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["daisy", "rose"]
    with pytest.raises(ValueError, match="a map needs three or more images, the index has 1"):
        beit.draw_features(beit.open_index(predictor, ["photo.jpg"]))


def test_the_figure_and_the_table_of_nearest_images(predictor, capsys):
    assert main(["visualize", "nearest", "output/run", "photo.jpg", "more/c.png", "--among", "flowers", "--topk", "2", "--index", "i.npz"]) == 0  # fmt: skip
    assert capsys.readouterr().out.split() == ["nearest.png", "nearest.csv"]
    index = beit.open_index(predictor, file="i.npz")
    rows = [line.split(",") for line in Path("nearest.csv").read_text().splitlines()]
    assert rows[0] == ["query", "rank", "image", "similarity"]
    assert [row[:3] for row in rows[1:3]] == [["photo.jpg", str(k + 1), entry["image"]] for k, entry in enumerate(index.nearest("photo.jpg", 2)[0])]  # fmt: skip
    figure = beit.draw_nearest(index, ["photo.jpg", "more/c.png"], topk=2)
    shown = [axis.get_title() for axis in figure.axes]
    assert shown[0] == "query\nphoto.jpg" and shown[3] == "query\nmore/c.png"
    assert shown[4].startswith(f"{float(rows[3][3]):.3f}\n")
    with Image.open(rows[3][2]) as image:
        np.testing.assert_array_equal(figure.axes[4].images[0].get_array(), np.asarray(image))


def test_images_that_were_moved_are_named_with_the_fix(predictor):
    index = beit.open_index(predictor, ["flowers"], "i.npz")
    Path("flowers").rename("plants")
    assert len(index.nearest("photo.jpg")[0]) == 5
    with pytest.raises(
        FileNotFoundError, match=r"flowers/.*png is in the index, .* \(--among\) to update it"
    ):
        beit.draw_nearest(index, "photo.jpg")


def test_the_images_to_search_must_be_named(example_folder, capsys):
    assert main(["visualize", "nearest", "output/run", "photo.jpg"]) == 2
    assert "name the images to search (--among FOLDER)" in capsys.readouterr().err


def test_an_encoder_without_head_has_an_index(example_folder):
    model = beit.build_backbone(beit.get_config("demo_digits"))
    paddle.seed(0)
    assert beit.open_index(model, ["flowers"]).features.shape == (8, 64)
