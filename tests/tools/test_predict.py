"""`python -m beit predict --save`: the images it draws, and unreadable files among others."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import paddle
import pytest
from PIL import Image

from beit.__main__ import main
from beit.beit import build_beit
from beit.config import dump
from beit.data.scenes import draw_scene
from beit.models.mim import build_mim
from beit.models.upernet import build_upernet
from beit.predict.inference import inference_model, load_predictor
from tests.tiny import TINIEST_PRETRAIN, UPERNET, randomize, tiny_config


def write_run(folder, config, model):
    folder.mkdir()
    (folder / "config.yaml").write_text(dump(config))
    paddle.save(model.state_dict(), str(folder / "model.pdparams"))
    return folder


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number, name in enumerate(("a.png", "a.jpg", "b.png")):
        draw_scene(np.random.default_rng(number))[0].save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    return folder


def predict(run, images, output, capsys):
    """Exit status, entries by file name, and names of the files written."""
    words = ["predict", str(run), str(images), "--json", "--save", str(output), "--device", "cpu"]
    status = main(words)
    entries = {entry["image"].rsplit("/", 1)[1]: entry for entry in json.loads(capsys.readouterr().out)}
    return status, entries, {path.name for path in output.iterdir()}


def test_overlays_and_class_maps_of_segmentation(images, tmp_path, capsys):
    config = tiny_config(**UPERNET | {"TASK": "segment", "DATA__RESIZE_LIMITS": [32, 24]})
    run = write_run(tmp_path / "run", config, build_upernet(config))
    (images / "broken.jpg").write_bytes(b"nothing")
    status, entries, written = predict(run, images, tmp_path / "out", capsys)
    assert status == 1 and set(entries) == {"a.jpg", "a.png", "b.png", "broken.jpg"}
    assert "no image" in entries["broken.jpg"]["error"]
    assert written == {
        f"{name}_{kind}.png" for name in ("a.jpg", "a.png", "b.png") for kind in ("classes", "overlay")
    }
    predictor = load_predictor(run)
    expected = predictor.class_map(predictor.open(images / "a.png"))
    with Image.open(tmp_path / "out" / "a.png_classes.png") as file:
        assert file.mode == "P"
        np.testing.assert_array_equal(np.asarray(file), expected)
    row = entries["a.png"]["topk"][0]
    assert row["score"] == pytest.approx((expected == row["label"]).mean(), abs=1e-6)


def test_masked_images_of_pretraining(images, tmp_path, capsys):
    config = tiny_config(**TINIEST_PRETRAIN | {"MASK__RULE": "random"})
    run = write_run(tmp_path / "run", config, build_mim(config))
    status, entries, written = predict(run, images, tmp_path / "out", capsys)
    assert status == 0 and written == {f"{name}_masked.png" for name in entries}
    with Image.open(tmp_path / "out" / "b.png_masked.png") as file:
        assert file.size == (12, 4)


def test_what_libraries_print_is_not_among_the_results(images, tmp_path, capfd, monkeypatch):
    config = tiny_config()
    run = write_run(tmp_path / "run", config, build_beit(config))
    monkeypatch.setattr("beit.tools.predict.use_device", lambda device: os.write(1, b"printed by C++\n"))
    assert main(["predict", str(run), str(images / "a.png"), "--json"]) == 0
    shown = capfd.readouterr()
    assert len(json.loads(shown.out)) == 1 and "printed by C++" in shown.err


def test_images_of_one_name_are_drawn_into_their_folders(images, tmp_path, capsys):
    config = tiny_config(**UPERNET | {"TASK": "segment", "DATA__RESIZE_LIMITS": [32, 24]})
    run = write_run(tmp_path / "run", config, build_upernet(config))
    for folder, number in (("x", 3), ("y/z", 4)):
        (images / folder).mkdir(parents=True)
        draw_scene(np.random.default_rng(number))[0].save(images / folder / "same.png")
    predict(run, images, tmp_path / "out", capsys)
    drawn = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*_classes.png")}
    flat = {f"{name}_classes.png" for name in ("a.jpg", "a.png", "b.png")}
    assert drawn == flat | {"x/same.png_classes.png", "y/z/same.png_classes.png"}


def test_a_classifier_has_nothing_to_draw(images, tmp_path, capsys):
    run = write_run(tmp_path / "run", tiny_config(), build_beit(tiny_config()))
    assert main(["predict", str(run), str(images), "--save", str(tmp_path / "out"), "--device", "cpu"]) == 2
    assert "`beit visualize attention`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_weights_that_are_not_finite_are_refused(images, tmp_path, capsys, form):
    model = build_beit(tiny_config())
    model.blocks[1].mlp.fc1.weight.set_value(paddle.full_like(model.blocks[1].mlp.fc1.weight, np.nan))
    run = write_run(tmp_path / "run", tiny_config(), model)
    assert main(["predict", str(run), str(images), "--device", "cpu", *form]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "NaN or infinity in 1 tensors, first blocks.1.mlp.fc1.weight" in err
    assert [line for line in err.splitlines() if not line.startswith("CPU settings")] == [
        err.splitlines()[-1]
    ]


def test_a_result_that_is_not_finite_is_refused(images, tmp_path, capsys):
    model = build_beit(tiny_config())
    model.head.weight.set_value(paddle.full_like(model.head.weight, 3e38))
    run = write_run(tmp_path / "run", tiny_config(), model)
    assert main(["predict", str(run), str(images), "--device", "cpu"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "the output of the model is NaN or infinite" in err
    with pytest.raises(ValueError, match="NaN or infinite"):
        load_predictor(run)([Image.new("RGB", (16, 16))])


def test_names_of_classes_and_images_cannot_control_the_terminal(images, tmp_path, capsys):
    run = write_run(tmp_path / "run", tiny_config(), build_beit(tiny_config()))
    names = "\x1b[2Jcat\ndog \x9b31m\nbird\u202e\n"
    (run / "class_names.txt").write_text(names, encoding="utf-8")
    (images / "a.png").rename(images / "\x1b]0;title\x07.png")
    for form in ([], ["--csv"], ["--json"]):
        (images / "broken\x1b.jpg").write_bytes(b"nothing")
        assert main(["predict", str(run), str(images), "--device", "cpu", *form]) == 1
        out, err = capsys.readouterr()
        assert all(line.isprintable() for line in (out + err).splitlines()), repr(out + err)
        assert ("\\u001b[2Jcat" if form == ["--json"] else "\\x1b[2Jcat") in out
    known = {row["class"] for entry in json.loads(out) for row in entry.get("topk", [])}
    assert known == {line.strip() for line in names.split("\n")} - {""}


def test_an_error_names_its_file_once(images, tmp_path, capsys):
    run = write_run(tmp_path / "run", tiny_config(), build_beit(tiny_config()))
    (images / "empty.png").touch()
    missing, pattern = tmp_path / "no.png", f"{tmp_path}/*.webp"
    words = ["predict", str(run), str(images), str(missing), pattern, "--device", "cpu"]
    assert main(words) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert sorted(errors) == sorted(
        [
            f"error: {images / 'empty.png'}: an empty file (0 bytes)",
            f"error: {missing} does not exist; name an image, a folder of images, or a pattern",
            f"error: no file matches the pattern {pattern}",
        ]
    )


def test_another_image_size(images, tmp_path, capsys):
    model = randomize(build_beit(tiny_config()))
    run = write_run(tmp_path / "run", tiny_config(), model)
    assert main(["predict", str(run), str(images), "--device", "cpu", "--json", "--image-size", "24x32"]) == 0
    entries = json.loads(capsys.readouterr().out)
    expected = inference_model(run, [entry["image"] for entry in entries], image_size=(24, 32))
    for entry, result in zip(entries, expected, strict=True):
        assert entry["topk"][0]["score"] == pytest.approx(float(result["pred_score"]), rel=1e-5)
    for size in ("large", "384x", "0", "-5x5"):
        with pytest.raises(SystemExit):
            main(["predict", str(run), str(images), f"--image-size={size}"])
        assert f"argument --image-size: {size}: expected pixels such as 384" in capsys.readouterr().err


@pytest.mark.parametrize("flags", ["--crop-pct 0", "--crop-pct 3", "--crop-pct nan", "--std 0 0 0"])
def test_a_preprocessing_that_is_impossible(images, tmp_path, capsys, flags):
    run = write_run(tmp_path / "run", tiny_config(), build_beit(tiny_config()))
    assert main(["predict", str(run), str(images), "--device", "cpu", *flags.split()]) == 2
    name = flags.split()[0].removeprefix("--").replace("-", "_")
    assert re.search(rf"error: {name} \S.*; expected", capsys.readouterr().err)
