"""Model cards of runs, exports and converted weights."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from beit.__main__ import main
from beit.card import card_text, write_card
from beit.checkpoint.average import mean_checkpoint
from beit.checkpoint.convert import convert
from beit.checkpoint.files import read, write
from beit.checkpoint.open import open_checkpoint
from beit.train.run import run
from beit.zoo.table import PUBLISHED
from tests.checkpoint import publishers
from tests.tiny import tiny_config, write_dataset

SECTIONS = ["Model", "Intended use", "Classes", "Data", "Recipe", "Metrics", "License"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run that started from a file called as a published one, and its metrics."""
    root = tmp_path_factory.mktemp("card")
    write_dataset(root / "flowers")
    start = root / "beit_base_patch16_224_pt22k_ft22k.pth"
    state = publishers.unilm_classifier(np.random.default_rng(0), side=2, patch=8)
    write(start, {"model": state})
    config = tiny_config(root / "flowers", root / "run", MODEL__PRETRAINED=str(start), TRAIN__SMOOTHING=0.2)
    return root / "run", run(config)


def sections(text):
    parts = re.split(r"^## (.*)\n\n", text.partition("\n<!-- ")[0], flags=re.MULTILINE)
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))


def test_the_card_of_a_run_states_data_recipe_metrics_and_license(trained):
    folder, metrics = trained
    text = (folder / "card.md").read_text(encoding="utf-8")
    found = sections(text)
    assert list(found) == SECTIONS
    assert text.startswith("---\npipeline_tag: image-classification\ntags: [beit]\n---\n\n# tiny\n")
    count = sum(value.size for value in read(folder / "model.pdparams").tree.values())
    for row in (
        f"| parameters | {count:,} |",
        "| blocks | 2 |",
        "| image size | 16 |",
        "| mean | (0.5, 0.5, 0.5) |",
    ):
        assert row in found["Model"]
    assert found["Classes"] == "3, without names."
    assert found["Data"].startswith("flowers (imagenet2012), 24 training images.")
    assert "| TRAIN.SMOOTHING | 0.2 |" in found["Recipe"]
    assert "| MODEL.PRETRAINED | beit\\_base\\_patch16\\_224\\_pt22k\\_ft22k.pth |" in found["Recipe"]
    assert "TRAIN.LOSS" not in found["Recipe"]  # it has its default
    assert f"| top1 | {metrics['top1']:.4g} |" in found["Metrics"]
    assert "images" not in found["Metrics"]  # they are under Data
    assert f"| loss | {metrics['loss']:.4g} |" in found["Metrics"]
    assert found["License"].startswith(
        "Not stated: add one before you publish the weights. The training started from "
    )
    assert "whose license is MIT" in found["License"]
    assert str(folder.parent) not in text  # no folders of this machine


def test_an_edited_card_stays(trained, tmp_path):
    weights, card, new = trained[0] / "model.pdparams", tmp_path / "card.md", tmp_path / "card.new.md"
    for _ in range(2):
        write_card(card, weights)
    assert sections(card.read_text(encoding="utf-8"))["Data"].startswith("flowers")
    assert not new.exists()
    edited = card.read_text(encoding="utf-8").replace("not known here: add it", "my garden")
    card.write_text(edited, encoding="utf-8")
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"card\.md was edited and stays; .* is .*card\.new\.md"):
            write_card(card, weights, measured={"speed": "2"})
        assert card.read_text(encoding="utf-8") == edited
        assert "| speed | 2 |" in new.read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [b"", b"# mine\n", b"\xff\xfe"])
def test_a_card_of_someone_else_stays(trained, tmp_path, content):
    card = tmp_path / "card.md"
    card.write_bytes(content)
    with pytest.warns(UserWarning, match="was edited and stays"):
        write_card(card, trained[0] / "model.pdparams")
    assert card.read_bytes() == content


def test_weights_without_results_say_so(trained, tmp_path):
    folder = trained[0]
    assert open_checkpoint(folder / "latest.pdparams").info.results == {}
    write_card(tmp_path / "card.md", folder / "latest.pdparams")
    assert sections((tmp_path / "card.md").read_text())["Metrics"].startswith("Not measured")
    average = mean_checkpoint([folder / "model.pdparams", folder / "best.pdparams"])
    assert average.info.results == {}
    file = read(folder / "model.pdparams")
    write(
        tmp_path / "plain.pdparams",
        file.tree,
        metadata={**file.metadata, "results": '{"top1": "high", "a": [1]}'},
    )
    assert open_checkpoint(tmp_path / "plain.pdparams").info.results == {}


def test_texts_of_the_weights_are_shown_as_they_are(trained):
    """No name is markup, and counts have all digits."""
    info = open_checkpoint(trained[0] / "model.pdparams").info
    config = info.run_config.replace(str(trained[0].parent / "flowers"), "/data/my_`cats`")
    names = ("&lt;b&gt;", "$x$ ~~y~~", "a\n# b")
    results = {"count": 50000, "top1": 81.23456, "a|b": math.nan}
    found = sections(
        card_text(replace(info, run_config=config, class_names=names, results=results), 5, None, {})
    )
    assert found["Classes"] == r"3: \&lt;b\&gt;, \$x\$ \~\~y\~\~, a\\n# b."
    assert found["Data"].startswith(r"my\_\`cats\` (imagenet2012).")
    assert found["Metrics"].splitlines()[2:] == ["| count | 50000 |", "| top1 | 81.23 |", r"| a\|b | nan |"]


def test_a_config_that_is_no_yaml_states_nothing(trained):
    info = replace(open_checkpoint(trained[0] / "model.pdparams").info, run_config="TASK: [")
    found = sections(card_text(info, 5, None, {}))
    assert (found["Data"], found["Recipe"]) == ("Not stated by the weights.",) * 2


def test_converted_weights_keep_results_and_have_a_card(trained, tmp_path, capsys):
    folder, metrics = trained
    main(["convert", str(folder), str(tmp_path / "w.safetensors")])
    assert f"described in {tmp_path / 'w.card.md'}" in capsys.readouterr().out
    main(["convert", str(tmp_path / "w.safetensors"), str(tmp_path / "timm"), "--to", "timm"])
    for card in ("w.card.md", "timm/card.md"):
        found = sections((tmp_path / card).read_text(encoding="utf-8"))
        assert list(found) == SECTIONS
        assert f"| top1 | {metrics['top1']:.4g} |" in found["Metrics"]
        assert "| TRAIN.SMOOTHING | 0.2 |" in found["Recipe"]


def test_an_export_states_what_was_measured_and_the_names_that_it_has(trained, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("rose\ntulip\n<b>lily</b> | x\n", encoding="utf-8")
    picture = next((trained[0].parent / "flowers").glob("*/*.png"))
    flags = ["--class-names", str(names), "--image-size", "24", "--device", "cpu", "--pictures", str(picture)]
    main(["export", str(trained[0]), str(tmp_path / "exported"), *flags])
    found = sections((tmp_path / "exported" / "card.md").read_text(encoding="utf-8"))
    assert found["Classes"] == "3: rose, tulip, \\<b\\>lily\\</b\\> \\| x."
    assert "| image size | (24, 24) |" in found["Model"]
    measured = json.loads((tmp_path / "exported" / "export.json").read_text())["measured"]["paddle"]
    assert f"| largest difference from the model on paddle | {measured:.1e} |" in found["Metrics"]


def test_published_weights_have_the_license_and_the_metrics_of_their_publisher(tmp_path):
    write(tmp_path / "w.pth", {"model": publishers.unilm_classifier(np.random.default_rng(0))})
    info = open_checkpoint(tmp_path / "w.pth").info
    entry = PUBLISHED["beit_base_patch16_224_pt22k_ft22kto1k"]
    text = card_text(info, 5, entry, {})
    found = sections(text)
    assert (
        text.startswith("---\nlicense: mit\n")
        and "\n# beit\\_base\\_patch16\\_224\\_pt22k\\_ft22kto1k\n" in text
    )
    assert found["License"] == f"MIT, as stated by the publisher: {entry.page}"
    assert f"| top1 | {entry.metrics['top1']:.4g} (as published) |" in found["Metrics"]
    assert entry.page in found["Data"] and entry.page in found["Recipe"]
    renamed = tmp_path / entry.file_name
    (tmp_path / "w.pth").rename(renamed)
    write_card(tmp_path / "card.md", renamed)
    assert sections((tmp_path / "card.md").read_text())["License"] == found["License"]


def test_unknown_weights_state_nothing_that_is_not_known(tmp_path):
    convert_from = {"model": publishers.unilm_classifier(np.random.default_rng(0), classes=60)}
    write(tmp_path / "w.pth", convert_from)
    convert(tmp_path / "w.pth", tmp_path / "x.pdparams")
    opened = open_checkpoint(tmp_path / "x.pdparams")
    info = replace(opened.info, class_names=tuple(f"n{k}" for k in range(60)))
    found = sections(card_text(info, 5, None, {}))
    assert (found["Data"], found["Recipe"]) == ("Not stated by the weights.",) * 2
    assert found["License"] == "Not stated: add one before you publish the weights."
    assert found["Classes"].endswith("n49 and 10 more.")


def test_a_license_that_the_hub_does_not_know_is_another_one(tmp_path):
    write(tmp_path / "w.pth", {"model": publishers.unilm_classifier(np.random.default_rng(0))})
    info = open_checkpoint(tmp_path / "w.pth").info
    others = [entry for entry in PUBLISHED.values() if entry.license.lower() not in ("mit", "apache-2.0")]
    assert others
    assert all(card_text(info, 5, entry, {}).startswith("---\nlicense: other\n") for entry in others)
