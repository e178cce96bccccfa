"""`visualize`: inputs and outputs are checked before anything is computed, and no file of the user is replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from beit.__main__ import main

RUN = "output/run"


@pytest.fixture
def no_model(example_folder, monkeypatch):
    """Nothing may load a model."""

    def fail(*arguments, **options):
        raise AssertionError("a model was loaded")

    for module in ("tools.model_arguments", "predict.image_index", "predict.comparison"):
        monkeypatch.setattr(f"beit.{module}.load_predictor", fail)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["nearest", RUN, "absent.png", "--among", "flowers"], "absent.png does not exist"),
        (["nearest", RUN, "photo.jpg", "--among", "absent"], "absent does not exist"),
        (["nearest", RUN, "photo.jpg", "--among", "photo.jpg", "--output", "photo.jpg"], "--output photo.jpg is also read"),
        (["nearest", RUN, "photo.jpg", "--among", "flowers", "--output", "mine.png"], "mine.csv exists and is another table"),
        (["features", RUN, "flowers", "--output", "mine.csv/a.png"], "mine.csv"),
        (["comparison", RUN, RUN, "photo.jpg", "--output", "mine.png"], "mine.csv exists and is another table"),
        (["comparison", RUN, RUN, "photo.jpg", "--output", "photo.jpg"], "--output photo.jpg is also read"),
        (["cam", RUN, "photo.jpg", "--output", "/proc/new/a.png"], "/proc/new"),
        (["cam", RUN, "photo.jpg", "--output", "photo.jpg"], "--output photo.jpg is also read"),
        (["attention", RUN, "absent.png"], "absent.png does not exist"),
        (["shape-bias", RUN, "photo.jpg", "--output", "mine.png"], "mine.csv exists and is another table"),
    ],
)  # fmt: skip
def test_a_mistake_is_found_before_the_model_is_loaded(words, reason, no_model, capsys):
    Path("mine.csv").write_text("path,label\n")
    photo = Path("photo.jpg").read_bytes()
    assert main(["visualize", *words]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and reason in error
    assert Path("mine.csv").read_text() == "path,label\n"
    assert Path("photo.jpg").read_bytes() == photo


def test_a_method_that_is_not_installed_is_found_before_the_model_is_loaded(no_model, monkeypatch, capsys):
    monkeypatch.setattr("beit.predict.index_figures.find_spec", lambda name: None)
    assert main(["visualize", "features", RUN, "flowers", "--method", "tsne"]) == 2
    assert 'pip install "beit-paddle[tsne]"' in capsys.readouterr().err


def test_the_figures_of_a_config_check_their_folder_first(no_model, monkeypatch, capsys):
    monkeypatch.setattr("beit.tools.visualize.validation_predictions", None)
    monkeypatch.setattr("beit.tools.visualize.draw_tokens", None)
    words = ["-cfg=output/run/config.yaml", "-pretrained=output/run/model.pdparams", "-output=photo.jpg/new"]
    for kind in ("predictions", "confusion", "codes"):
        assert main(["visualize", kind, *words]) == 2
        assert "photo.jpg" in capsys.readouterr().err.splitlines()[-1]


def test_a_table_of_the_user_is_not_replaced_by_that_of_confusions(no_model, monkeypatch, capsys):
    monkeypatch.setattr("beit.tools.visualize.validation_predictions", None)
    table = Path("mine/confusion.csv")
    table.parent.mkdir()
    table.write_text("path,label\n")
    words = ["-cfg=output/run/config.yaml", "-pretrained=output/run/model.pdparams", "-output=mine"]
    assert main(["visualize", "confusion", *words]) == 2
    assert "confusion.csv exists and is another table" in capsys.readouterr().err
    assert table.read_text() == "path,label\n"
