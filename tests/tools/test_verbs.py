"""`python -m beit VERB`: every example of every help text runs; arguments, messages and exit statuses."""

from __future__ import annotations

import csv
import importlib
import io
import json
import re
import shlex

import pytest

from beit.__main__ import VERBS, main

TESTED = (
    "predict", "train", "evaluate", "check", "make-lists", "config", "report", "visualize", "convert", "list-models",
    "completion",
)  # fmt: skip
EXAMPLES = [line for verb in TESTED for line in importlib.import_module(VERBS[verb][0]).EXAMPLES]
SHOWS = {
    "predict": "digit ",
    "train": "evaluation",
    "evaluate": "evaluation: top1",
    "check": "no problems found",
    "make-lists": "6 training and 2 validation images of 2 classes",
    "config": "TRAIN",
    "report": "parameters",
    "visualize": ".png",
    "convert": "written as",
    "list-models": "beitv2_base_patch16_224_pt1k_ftade20k",
    "completion": "_shtab_beit",
}


BASE = (86_530_984, 17_563_828_224, 17_581_219_584, 16_865_892_096, 12_665_468_928)
"""Parameters and multiply-adds A to D; mmpretrain's metafile states B."""


@pytest.mark.parametrize("line", EXAMPLES, ids=lambda line: line.removeprefix("python -m beit ")[:40])
def test_example_of_the_help_text(line, example_folder, capfd):
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "beit"]
    words = words[3 : words.index(">")] if ">" in words else words[3:]
    if words[0] == "train":  # forty epochs of the example are two here
        words += ["-opts", "TRAIN.NUM_EPOCHS", "2", "TRAIN.WARMUP_EPOCHS", "1", "DATA.NUM_WORKERS", "0"]
    assert main(words) == 0
    shown = capfd.readouterr().out
    assert SHOWS[words[0]] in shown
    if words[:2] == ["report", "-cfg=beit_base_patch16_224"]:
        for number in BASE:
            assert f"{number:,}" in shown
    for name in re.findall(r"^(\S+\.(?:png|csv))$", shown, flags=re.MULTILINE):
        assert (example_folder / name).stat().st_size > 200


def test_the_british_spelling_of_visualize(example_folder, capsys):
    assert main(["visualise", "curves", "output/run"]) == 0
    assert capsys.readouterr().out == "output/run/curves.png\n"


@pytest.mark.parametrize("verb", ["predict", "export", "serve", "doctor", "average", "bench"])
def test_verbs_that_run_a_network_take_the_device(verb, capsys):
    with pytest.raises(SystemExit) as end:
        main([verb, "-device", "toaster"])
    assert end.value.code == 2
    assert "device: invalid choice: 'toaster'" in capsys.readouterr().err


@pytest.mark.parametrize("verb", TESTED)
def test_help_shows_the_examples(verb, capsys):
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    for line in importlib.import_module(VERBS[verb][0]).EXAMPLES:
        assert line in shown


def test_unreadable_images_do_not_stop_the_others(example_folder, capsys):
    (example_folder / "pictures" / "broken.jpg").write_text("<html>")
    arguments = ["predict", "output/run", "pictures", "absent.png", "--device", "cpu", "--topk", "2"]
    assert main([*arguments, "--json"]) == 1
    output = capsys.readouterr()
    entries = {entry["image"]: entry for entry in json.loads(output.out)}
    assert list(entries) == ["absent.png", "pictures/a.png", "pictures/broken.jpg", "pictures/deeper/b.jpg"]
    assert "HTML page" in entries["pictures/broken.jpg"]["error"] and "error: absent.png" in output.err
    assert len(entries["pictures/a.png"]["topk"]) == 2
    assert main([*arguments, "--csv"]) == 1
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    best = entries["pictures/a.png"]["topk"][0]
    row = next(row for row in rows if row["image"] == "pictures/a.png")
    assert (row["rank"], row["class"], int(row["label"])) == ("1", best["class"], best["label"])
    assert float(row["score"]) == pytest.approx(best["score"], rel=1e-6)
    assert sum(bool(row["error"]) for row in rows) == 2
    assert main(["predict", "output/run", "photo.jpg", "--device", "cpu", "--topk", "1"]) == 0
    assert re.fullmatch(r"photo.jpg  digit \d \d+\.\d %\n", capsys.readouterr().out)


def test_names_and_preprocessing_from_the_command_line(example_folder, capsys):
    (example_folder / "plain.pdparams").write_bytes(
        (example_folder / "output/run/model.pdparams").read_bytes()
    )
    arguments = ["predict", "plain.pdparams", "photo.jpg", "--device", "cpu"]
    assert main(arguments) == 2
    assert "--mean 0.5 0.5 0.5" in capsys.readouterr().err
    (example_folder / "names.txt").write_text("".join(f"figure {k}\n" for k in range(10)))
    half = (".5",) * 3
    flags = ("--mean", *half, "--std", *half, "--crop-pct", "1", "--class-names", "names.txt", "--json")
    assert main([*arguments, *flags]) == 0
    mine = json.loads(capsys.readouterr().out)[0]
    assert main(["predict", "output/run", "photo.jpg", "--device", "cpu", "--json"]) == 0
    theirs = json.loads(capsys.readouterr().out)[0]
    assert mine["topk"][0]["score"] == theirs["topk"][0]["score"]
    assert mine["pred_class"] == theirs["pred_class"].replace("digit", "figure")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["predict", "output/run", "photo.jpg", "--topk", "0"], "argument --topk: 0: expected a whole number of 1 or more"),
        (["serve", "output/run", "--topk", "0"], "argument --topk: 0: expected a whole number of 1 or more"),
        (["serve", "output/run", "--max-megabytes", "nan"], "argument --max-megabytes: nan: expected a number above 0"),
        (["serve", "output/run", "--max-megapixels", "-1"], "argument --max-megapixels: -1: expected a number above 0"),
        (["check", "-cfg=demo_digits", "--ranks", "0"], "argument --ranks: 0: expected a whole number of 1 or more"),
        (["report", "-cfg=demo_digits", "--batch", "-4"], "argument --batch: -4: expected a whole number of 1 or more"),
        (["bench", "--rounds", "0"], "argument --rounds: 0: expected a whole number of 1 or more"),
        (["bench", "--picture", "bench"], "argument --picture: bench: expected a file that ends in .png"),
        (["visualize", "nonsense"], "invalid choice: 'nonsense'"),
        (["config", "-cfgg=x"], "did you mean -cfg"),
        (["visualize", "cam", "output/run", "photo.jpg", "--output", "flowers"], "flowers: expected a file that ends in .png"),
        (["visualize", "nearest", "output/run", "photo.jpg", "--output", "a.csv"], "a.csv: expected a file that ends in .png"),
        (["visualize", "curves", "output/run", "--output", "curves"], "curves: expected a file that ends in .png"),
    ],
)  # fmt: skip
def test_wrong_flags(words, reason, example_folder, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["predict", "absent", "photo.jpg"], "checkpoint absent does not exist"),
        (["config", "--keys", "NOTHING"], "no key matches 'NOTHING'"),
        (["visualize", "attention", "output/run", "photo.jpg", "--layers", "3"], "the model has blocks 0 to 2"),
        (["visualize", "curves", "flowers"], "metrics.jsonl does not exist"),
        (["visualize", "masked", "-cfg=demo_digits"], "need TASK: pretrain and weights"),
        (["visualize", "confusion", "-cfg=demo_digits"], "need TASK: classify or multilabel, and weights"),
        (["visualize", "codes", "-cfg=demo_digits"], "need a trained tokenizer"),
        (["export", "output/run", "new", "--pictures", "photo.jpg", "-device=gpu"], "DEVICE = gpu, but"),
        (["unknown"], "unknown verb 'unknown'"),
        (["evaluate", "-cfg=demo_digits", "-device=cpu", "-output=new"], "-eval needs the weights"),
    ],
)  # fmt: skip
def test_mistakes_give_one_line(words, reason, example_folder, capfd):
    assert main(words) == 2
    error = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and reason in error[0]
