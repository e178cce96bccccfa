"""`python -m beit convert`: its arguments and what it prints. `tests/checkpoint/test_convert.py` tests the files."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

import beit
from beit.checkpoint.convert import convert
from beit.checkpoint.files import read, write
from beit.checkpoint.open import open_checkpoint
from beit.tools.average import main as average_main
from beit.tools.convert import main as convert_main
from tests.checkpoint import publishers
from tests.checkpoint.sources import UNILM, write_source


def test_averaged_weights_are_optional(tmp_path):
    averaged = {name: array + 1 for name, array in UNILM.items()}
    write(
        tmp_path / "training.pdparams",
        {"model": publishers.paddlevit(UNILM), "model_ema": publishers.paddlevit(averaged)},
    )
    for flags, expected in (([], averaged), (["--ema"], averaged), (["--no-ema"], UNILM)):
        convert_main([str(tmp_path / "training.pdparams"), str(tmp_path / "out.safetensors"), *flags])
        state, _ = open_checkpoint(read(tmp_path / "out.safetensors").tree)
        np.testing.assert_array_equal(state["cls_token"], expected["cls_token"])


def test_command_line_prints_the_report(tmp_path, capsys):
    source = write_source(tmp_path)
    convert_main([str(source), str(tmp_path / "out.pdparams"), "--to", "unilm"])
    text = capsys.readouterr().out
    assert "beit_base_source.pdparams: paddlevit classifier (pickle)" in text
    assert "written as unilm" in text
    assert list(read(tmp_path / "out.pdparams").tree) == ["model"]
    with pytest.raises(SystemExit):
        convert_main([str(source), "out.pdparams", "--to", "keras"])
    assert "invalid choice: 'keras'" in capsys.readouterr().err


def test_weights_that_are_not_finite_are_converted_with_a_warning(tmp_path, capsys):
    tree = publishers.paddlevit(UNILM)
    tree["blocks.1.gamma_1"] = tree["blocks.1.gamma_1"].copy()
    tree["blocks.1.gamma_1"][3] = np.inf
    write(tmp_path / "source.pdparams", tree)
    convert_main([str(tmp_path / "source.pdparams"), str(tmp_path / "target.safetensors")])
    assert "warning: NaN or Inf in blocks.1.gamma_1" in capsys.readouterr().out
    assert np.isinf(load_file(tmp_path / "target.safetensors")["blocks.1.gamma_1"][3])


@pytest.mark.parametrize("verb", [convert_main, average_main])
def test_weights_of_a_run_and_sources_are_not_overwritten(tmp_path, verb):
    source = write_source(tmp_path)
    of_run = tmp_path / "run" / "model.pdparams"
    of_run.parent.mkdir()
    of_run.write_bytes(source.read_bytes())
    (of_run.parent / "config.yaml").write_text("TASK: classify\n")
    for target, reason in ((source, "is also read"), (of_run, "was written by the run in")):
        before = target.read_bytes()
        words = (
            [str(source), str(target)] if verb is convert_main else [str(target), str(source), str(source)]
        )
        with pytest.raises(ValueError, match=f"{target.name} {reason}.*name another file to write"):
            verb(words)
        with pytest.raises(ValueError, match=f"{target.name} {reason}.*name another file to write"):
            beit.average([source, source], target) if verb is average_main else convert(source, target)
        assert target.read_bytes() == before


def test_the_weights_of_a_folder_are_not_overwritten(tmp_path):
    folder = tmp_path / "folder"
    convert_main([str(write_source(tmp_path)), str(folder), "--to", "huggingface"])
    weights = folder / "model.safetensors"
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    cases = (
        (convert_main, [folder, weights], "also read"),
        (convert_main, [folder, folder, "--to", "huggingface"], "the folder of the weights"),
        (convert_main, [weights, folder, "--to", "timm"], "the folder of the weights"),
        (average_main, [weights, folder, folder], "also read"),
    )
    for verb, words, reason in cases:
        with pytest.raises(ValueError, match=f"{reason}.*name another"):
            verb([str(word) for word in words])
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    convert_main(
        [str(tmp_path / write_source(tmp_path)), str(tmp_path), "--to", "timm"]
    )  # it replaces nothing
    assert (tmp_path / "model.safetensors").is_file()


def test_the_adapter_of_a_run_is_not_overwritten(tmp_path):
    source, adapter = write_source(tmp_path), tmp_path / "run" / "best_adapter.pdparams"
    adapter.parent.mkdir()
    adapter.write_bytes(b"the adapter")
    (adapter.parent / "config.yaml").write_text("TASK: classify\n")
    with pytest.raises(ValueError, match="was written by the run in"):
        convert_main([str(source), str(adapter)])
