"""The command `python -m beit bench`."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from beit.__main__ import main
from beit.tools import bench
from beit.tools.bench import EXAMPLES


@pytest.mark.slow
def test_the_first_example_with_numbers_and_plot(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = EXAMPLES[0].split()[3:]
    words[words.index("--rounds") + 1] = "1"
    assert words[:2] == ["bench", "infer"]
    assert main([*words, "--only", "beit", "--json", "bench.json", "--picture", "bench.png"]) == 0
    shown = capsys.readouterr().out
    assert "inference, beit_tiny_patch16_224, batch 8, float32" in shown
    assert "load of the machine: " in shown and "undecided: 1 rounds, 7 are needed" in shown
    assert "beit, exported, Paddle" in shown and "matrix product" in shown
    report = json.loads((tmp_path / "bench.json").read_text())
    (benchmark,) = report["benchmarks"]
    assert benchmark["load_before"] >= 0 and benchmark["load_at_the_end"] >= 0
    own, exported, *_ = benchmark["results"]
    assert own["rate"][0] > 0 and 0 < own["share_of_peak"] < 1.5
    assert own["start"][0] > 0 and own["peak_bytes"] > 1e8
    assert exported["difference"] < 1e-3 and exported["ratio"][0] > 0
    assert benchmark["multiply_adds_per_step"] == pytest.approx(8 * 1.26e9, rel=0.02)
    assert report["machine"]["threads"] >= 1
    with Image.open(tmp_path / "bench.png") as plot:
        assert plot.width >= 700


@pytest.mark.slow
def test_file_formats_without_pytorch(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "_interpreter_with", lambda known, needs: None if needs else known[0])
    assert main(["bench", "load", "--model", "beit_tiny_patch16_224", "--rounds", "1"]) == 0
    shown = capsys.readouterr().out
    assert "loading, beit_tiny_patch16_224, pdparams" in shown and "paddle.load" in shown
    assert "not installed: torch and safetensors" in shown and "torch zip" not in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fast"], "unknown mode 'fast'; there are infer, train, pretrain, data, load"),
        (["load", "--peer-python", "/no/python"], "--peer-python /no/python: no such program"),
        (
            ["--json", "/no/folder/bench.json"],
            "cannot write /no/folder/bench.json: its folder does not exist",
        ),
    ],
)
def test_invalid_arguments(words, message, capsys):
    assert main(["bench", *words, "--model", "beit_tiny_patch16_224"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.peers
@pytest.mark.parametrize("mode", ["infer", "train", "data", "load"])
def test_results_of_the_installed_baselines_agree(mode, tmp_path, capsys):
    words = ["bench", mode, "--model", "beit_tiny_patch16_224", "--batch", "2", "--rounds", "1"]
    assert main([*words, "--json", str(tmp_path / "bench.json")]) == 0
    for benchmark in json.loads((tmp_path / "bench.json").read_text())["benchmarks"]:
        results = benchmark["results"]
        assert not [one for one in results if one["note"].startswith(("failed", "results differ"))]
        assert any(one["name"].startswith(("timm", "torch", "safetensors", "paddle.load")) for one in results)


@pytest.mark.slow
def test_pre_training_steps_against_their_arithmetic(capsys):
    words = ["bench", "pretrain", "--model", "beit_tiny_patch16_224", "--batch", "1", "--rounds", "1"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "pre-training steps, tiny, batch 1" in shown
    (v1,) = [line for line in shown.splitlines() if line.startswith("BEiT  ") and "arithmetic" in line]
    (v2,) = [line for line in shown.splitlines() if line.startswith("BEiT v2 ") and "arithmetic" in line]
    first, second = (float(line.split("arithmetic")[1].split()[0]) for line in (v1, v2))
    # The head on 75 patches; in version 2 two blocks more and the head twice.
    assert 1.05 < first < 1.15 and first + 2 / 12 < second < first + 0.35
