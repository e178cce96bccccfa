"""Several test sets in one table: what is evaluated, against NumPy on the logits of the model."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import paddle
import pytest
from PIL import Image

import beit
from beit.__main__ import main
from beit.beit import build_beit
from beit.config import dump, with_options
from beit.imagenet_classes import synsets
from beit.train.evaluation_sets import ALEXNET_ERRORS, EvaluationSet, find_sets, format_sets, table_rows
from tests.tiny import randomize, tiny_config

SYNSETS = synsets("imagenet-1k")
CHOSEN = (3, 20, 100, 999)
"""Classes of the test sets."""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A run with ImageNet's classes, and each kind of test set beside it."""
    root, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    run = root / "run"
    run.mkdir()
    config = tiny_config(root / "imagenet", run, MODEL__NUM_CLASSES=1000, DATA__CROP_PCT=0.8)
    model = randomize(build_beit(config))
    (run / "config.yaml").write_text(dump(config))
    (run / "class_names.txt").write_text("\n".join(SYNSETS))
    paddle.save(model.state_dict(), str(run / "model.pdparams"))

    def save(name):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(root / name)

    lines = [f"val/ILSVRC2012_val_{k:08d}.png {CHOSEN[k % 4]}\n" for k in range(1, 9)]
    for line in lines:
        save(f"imagenet/{line.split()[0]}")
    (root / "imagenet" / "val_list.txt").write_text("".join(lines))
    for label in CHOSEN:
        for k in range(2):
            save(f"r/{SYNSETS[label]}/{k}.png")
            save(f"v2/{label}/{k}.png")
            for corruption in ("fog", "noise/snow", "spatter"):
                for severity in (1, 2):
                    save(f"c/{corruption}/{severity}/{SYNSETS[label]}/{k}.png")
    return root


def logits_of(root, files, crop=0.8):
    predictor = beit.load_predictor(root / "run", preprocessing=beit.Preprocessing(crop_pct=crop))
    return predictor.model(predictor.tensor([predictor.open(file) for file in files])).numpy()


def accuracy(root, folder, crop=0.8):
    """Top-1 and top-5 among the chosen classes, in percent, for folders called by synsets."""
    files = sorted((root / folder).rglob("*.png"))
    labels = np.array([sorted(CHOSEN).index(SYNSETS.index(file.parent.name)) for file in files])
    return 100 * (logits_of(root, files, crop)[:, CHOSEN].argmax(1) == labels).mean()


def test_one_command_makes_one_table(root, tmp_path, capsys):
    files = sorted((root / "imagenet" / "val").iterdir())
    best = logits_of(root, files).argmax(1)
    sets = [[int(best[0]), 5], [int(best[1])], [], [1], [int(best[4])], [2, 3], [], [int(best[7])]]
    (root / "real.json").write_text(json.dumps(sets))
    words = ["val", f"real={root / 'real.json'}", f"v2={root / 'v2'}", f"r={root / 'r'}", f"c={root / 'c'}"]
    flags = [f"-cfg={root / 'run' / 'config.yaml'}", f"-pretrained={root / 'run' / 'model.pdparams'}"]
    assert main(["evaluate", *flags, f"-output={tmp_path}", "-device=cpu", "--sets", *words]) == 0
    table = capsys.readouterr().out.splitlines()[-8:]
    content = json.loads((tmp_path / "sets.json").read_text())
    rows = content["sets"]
    assert content["weights"].endswith("model.pdparams")
    assert list(rows) == ["val", "real", "v2", "r", "c/fog", "c/snow", "c/spatter", "c"]
    assert [line.split()[0] for line in table] == list(rows) and table[1].split() == [
        "real",
        "6",
        "66.67",
        "33.33",
    ]
    assert rows["real"] == {"images": 6, "top1": pytest.approx(100 * 4 / 6), "error": pytest.approx(100 / 3)}
    labels = [CHOSEN[k % 4] for k in range(1, 9)]
    assert rows["val"]["top1"] == 100 * (best == labels).mean() and rows["val"]["ece"] > 0
    numbered = sorted((root / "v2").rglob("*.png"))
    found = logits_of(root, numbered).argmax(1) == [int(file.parent.name) for file in numbered]
    assert (rows["v2"]["top1"], rows["v2"]["images"]) == (100 * found.mean(), 8)
    assert rows["r"]["top1"] == accuracy(root, "r") and rows["r"]["top5"] == 100
    for name, folder in (("fog", "fog"), ("snow", "noise/snow"), ("spatter", "spatter")):
        error = 100 - np.mean([accuracy(root, f"c/{folder}/{severity}", 1.0) for severity in (1, 2)])
        assert rows[f"c/{name}"]["error"] == pytest.approx(error) and rows[f"c/{name}"]["images"] == 16
    assert rows["c/fog"]["ce"] == pytest.approx(100 * rows["c/fog"]["error"] / 81.9324)
    assert "ce" not in rows["c/spatter"] and "ce" not in rows["c"]
    assert rows["c"]["error"] == pytest.approx((rows["c/fog"]["error"] + rows["c/snow"]["error"]) / 2)
    assert json.loads((tmp_path / "c" / "fog" / "2" / "eval.json").read_text())["crop_pct"] == 1.0


def test_mean_corruption_error_of_alexnet_is_100():
    """Of the 15 corruptions; a further one in the folder does not count."""
    errors = ALEXNET_ERRORS | {"spatter": 50.0}
    found = {
        EvaluationSet(f"c/{name}/{severity}", (), name, "c"): {"count": 2, "top1": 100 - error + shift}
        for name, error in errors.items()
        for severity, shift in ((1, 3.0), (2, -3.0))
    }
    rows = table_rows(found)
    assert rows["c"]["ce"] == pytest.approx(100) and rows["c"]["images"] == 60
    assert rows["c"]["error"] == pytest.approx(np.mean(list(ALEXNET_ERRORS.values())))
    assert rows["c/snow"]["error"] == pytest.approx(86.6816)
    assert format_sets(rows).splitlines()[0].split() == [
        "set",
        "images",
        "top1",
        "error",
        "top5",
        "ece",
        "ce",
    ]


def test_errors_of_alexnet_are_those_of_the_paper():
    """Hendrycks and Dietterich 2019, table 1, first line: noise, blur, weather, digital."""
    published = [88.6, 89.4, 92.3, 82.0, 82.6, 78.6, 79.8, 86.7, 82.7, 81.9, 56.5, 85.3, 64.6, 71.8, 60.7]
    assert list(ALEXNET_ERRORS.values()) == pytest.approx(published, abs=0.051)


@pytest.mark.parametrize(
    ("words", "keys", "message"),
    [
        (["v2"], {}, r"--sets v2: expected val or NAME=PATH"),
        (["val=x"], {}, r"--sets val=x: expected a folder"),
        (["../x=r"], {}, r"--sets \.\./x=r: expected"),
        (["r="], {}, r"--sets r=: expected"),
        (["r=r", "r=v2"], {}, r"names r twice"),
        (["c=c", "c=v2"], {}, r"names c twice"),  # a row of each corruption, and one of their mean
        (["r=nowhere"], {}, r"--sets r=nowhere: expected a folder of class folders, or real\.json"),
        (["real=nowhere.json"], {}, r"--sets real=nowhere\.json: there is no such file"),
        (["val"], {"TASK": "probe"}, r"--sets is for TASK: classify; the config has TASK: probe"),
    ],
)
def test_errors_name_the_word(root, monkeypatch, words, keys, message):
    monkeypatch.chdir(root)
    config = with_options(tiny_config(), [item for pair in keys.items() for item in pair])
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        find_sets(config, words)


@pytest.mark.parametrize(
    ("word", "make", "message"),
    [
        ("bad=bad", lambda root: (root / "bad" / "n01440764").mkdir(parents=True), "--sets bad: .*bad/n01440764 has no images"),
        ("dog=dogs", lambda root: shutil.copytree(root / "r" / SYNSETS[3], root / "dogs" / "dog"), "--sets dog: .*dog"),
        ("real=cut.json", lambda root: (root / "cut.json").write_text("[[1"), "--sets real: cut.json is not valid JSON"),
    ],
)  # fmt: skip
def test_a_set_that_cannot_be_read_is_found_before_the_others_are_evaluated(
    root, tmp_path, monkeypatch, capsys, word, make, message
):
    monkeypatch.chdir(root)
    make(root)
    flags = ["-cfg=run/config.yaml", "-pretrained=run/model.pdparams", f"-output={tmp_path / 'out'}"]
    assert main(["evaluate", *flags, "-device=cpu", "--sets", "val", "r=r", word]) == 2
    assert re.search(f"error: {message}", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_real_labels_in_python(root, tmp_path):
    (root / "real.json").write_text(json.dumps([list(range(1000))] * 7 + [[]]))
    result = beit.evaluate(root / "run", output=tmp_path, real_labels=str(root / "real.json"))
    assert (result.metrics["top1"], result.metrics["count"]) == (100, 7)
    assert "1 of 8 images have no ReaL label and do not count" in (tmp_path / "log.txt").read_text()
    (root / "real.json").write_text(json.dumps([[]] * 8))
    with pytest.raises(ValueError, match="no evaluated image has a label"):
        beit.evaluate(root / "run", output=tmp_path, real_labels=str(root / "real.json"))
