"""`beit` itself: versions, help, mistyped verbs, one style of flags in all verbs, shell completion."""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import re
import shlex
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from beit import __version__
from beit.__main__ import main
from beit.data.loader import WorkerError
from beit.flags import FLAGS, config_from_arguments
from beit.schema import SCHEMA
from beit.tools import ALIASES, VERBS
from beit.tools.completion import script
from beit.train.entry import exit_status
from beit.train.state import NonFiniteLossError
from beit.zoo import list_models


@pytest.mark.parametrize("word", ["--version", "-V", "version"])
def test_version(word, capsys):
    assert main([word]) == 0
    expected = (
        f"beit {__version__}, Paddle {metadata.version('paddlepaddle')}, Python {platform.python_version()}\n"
    )
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(("words", "status"), [([], 2), (["help"], 0), (["--help"], 0), (["-h"], 0)])
def test_help_lists_every_verb(words, status, capsys):
    assert main(words) == status
    shown = capsys.readouterr().out
    for verb, (_, description) in VERBS.items():
        assert f"  {verb:12} {description}\n" in shown


def test_help_of_a_verb_is_its_help_text(capsys):
    texts = []
    for words in (["help", "convert"], ["convert", "--help"], ["convert", "-h"]):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] == texts[2]
    assert "python -m beit convert output/run folder --to timm" in texts[0]


def test_help_of_dataset_names_every_kind_of_data():
    """Those of the schema, whose error for a wrong value lists them."""
    with pytest.raises(ValueError, match="one of") as error:
        SCHEMA["DATA.DATASET"].check("no such data")
    kinds = re.findall(r"'(\w+)'", str(error.value))
    assert len(kinds) > 8 and set(kinds) <= set(re.findall(r"\w+", FLAGS["dataset"][1]))


@pytest.mark.parametrize("verb", ["predict", "serve", "export"])
def test_help_names_exported_folders_where_the_verb_takes_them(verb, capsys):
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert ("run folder, checkpoint, exported folder, or name" in shown) == (verb != "export")


@pytest.mark.parametrize(
    ("given", "meant"),
    [("trian", "train"), ("predic", "predict"), ("visualizer", "visualize"), ("makelists", "make-lists")],
)
def test_a_mistyped_verb_names_the_nearest(given, meant, capsys):
    assert main([given]) == 2
    assert capsys.readouterr().err == f"error: unknown verb {given!r}; did you mean {meant}?\n"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("wrong"), 2),
        (OSError("wrong"), 2),
        (NonFiniteLossError("wrong"), 2),
        (WorkerError("wrong"), 1),
    ],
)
def test_errors_are_one_line_with_the_status_of_a_run(error, status, monkeypatch, capsys):
    def fail(_):
        raise error

    monkeypatch.setattr("beit.tools.config.main", fail)
    assert main(["config"]) == status
    assert capsys.readouterr().err == "error: wrong\n"

    def failing_run():
        raise error

    assert exit_status(failing_run) == status
    monkeypatch.setenv("BEIT_DEBUG", "1")
    capsys.readouterr()
    assert main(["config"]) == status
    assert "Traceback" in capsys.readouterr().err


def test_aliases_stand_for_verbs():
    assert set(ALIASES.values()) <= VERBS.keys() and not ALIASES.keys() & VERBS.keys()


def test_eval_and_make_lists_with_other_spellings(example_folder, capsys):
    assert main(["make_lists", "flowers", "-val=0.2"]) == 0
    assert "6 training and 2 validation images" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["eval", "--help"])
    assert "python -m beit evaluate" in capsys.readouterr().out


@pytest.mark.parametrize("verb", VERBS)
def test_every_flag_takes_one_dash_or_two_and_either_separator(verb):
    """The parser accepts each spelling of each flag: argparse sees the one of its definition."""
    parser = importlib.import_module(VERBS[verb][0]).build_parser()
    subparsers = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    checked = 0
    for own in [*subparsers[0].choices.values()] if subparsers else [parser]:
        for flag in own._option_string_actions:
            words = flag.lstrip("-").replace("_", "-")
            for spelling in (words, words.replace("-", "_")):
                assert (
                    own._defined(f"-{spelling}") == own._defined(f"--{spelling}=x").removesuffix("=x") == flag
                )
                checked += 1
    assert checked >= 2


@pytest.mark.parametrize("verb", VERBS)
def test_the_examples_of_every_verb_are_accepted(verb):
    """Most are run by other tests; `doctor` and `serve` take long."""
    module = importlib.import_module(VERBS[verb][0])
    assert module.EXAMPLES
    for line in module.EXAMPLES:
        words = shlex.split(line)
        assert words[:4] == ["python", "-m", "beit", verb]
        module.build_parser().parse_args(words[4 : words.index(">")] if ">" in words else words[4:])


def test_flags_of_verbs_in_the_style_of_training(example_folder, capsys):
    words = ["predict", "output/run", "photo.jpg", "-device=cpu", "-topk=1", "-batch_size", "2", "-json"]
    assert main(words) == 0
    shown = json.loads(capsys.readouterr().out)
    assert len(shown) == 1 and len(shown[0]["topk"]) == 1


def test_an_unknown_flag_of_a_verb_names_the_nearest(capsys):
    with pytest.raises(SystemExit) as end:
        main(["predict", "output/run", "photo.jpg", "--devise", "cpu"])
    assert end.value.code == 2
    assert "unknown flag --devise; did you mean --device?" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["train", "evaluate", "check", "config"])
def test_a_config_without_its_flag_names_the_flag(verb, capsys):
    with pytest.raises(SystemExit) as end:
        main([verb, "output/run"])
    assert end.value.code == 2
    hint = "unrecognized arguments: output/run; a config is named by -cfg=…, weights by -pretrained=…"
    assert hint in capsys.readouterr().err


def test_list_models_prints_a_table_or_json(capsys):
    assert main(["list-models", "*ade20k"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list_models("*ade20k")
    assert any("beitv2_base_patch16_224_pt1k_ftade20k" in line and "miou 53.1" in line for line in lines)
    assert main(["list-models", "*ade20k", "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == list_models("*ade20k")
    assert main(["list-models", "resnet*"]) == 2
    assert "no published checkpoint matches 'resnet*'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("tr", ["train"]),
        ("visualize att", ["attention"]),
        ("visualize attention --lay", ["--layers"]),
        ("train -data_p", ["-data_path"]),
        ("predict --device ", ["auto", "cpu", "gpu"]),
        ("convert --to pass", ["passl"]),
        ("predict output/r", ["output/run"]),
    ],
)
def test_completion_in_bash(typed, offered, tmp_path, completion_script):
    (tmp_path / "output/run").mkdir(parents=True)
    words = ["beit", *shlex.split(typed), *([""] if typed.endswith(" ") else [])]
    commands = f"""
source {completion_script}
COMP_WORDS=({" ".join(shlex.quote(word) for word in words)}); COMP_CWORD={len(words) - 1}
_shtab_beit beit "${{COMP_WORDS[-1]}}" "${{COMP_WORDS[-2]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    result = subprocess.run(
        ["bash", "-c", commands], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == offered


@pytest.fixture(scope="module")
def completion_script(tmp_path_factory):
    file = tmp_path_factory.mktemp("completion") / "beit.bash"
    file.write_text(script("bash"), encoding="utf-8")
    return file


def test_completion_without_shtab_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert 'pip install "beit-paddle[completion]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["-resume=auto"], ["-resume", "latest.pdparams"], ["-opts", "MODEL.RESUME=auto"]]
)
def test_resume_is_refused_in_an_evaluation_unless_the_file_states_it(
    tmp_path: Path, words: list[str]
) -> None:
    with pytest.raises(
        ValueError, match="with -eval: an evaluation continues no run; name the weights with -pretrained"
    ):
        config_from_arguments(["-eval", "-pretrained=best.pdparams", *words])
    file = tmp_path / "config.yaml"
    file.write_text("MODEL:\n  RESUME: auto\n", encoding="utf-8")
    assert (
        config_from_arguments([f"-cfg={file}", "-eval", "-pretrained=best.pdparams"]).MODEL.RESUME == "auto"
    )
    assert config_from_arguments(["-eval", "-pretrained=best.pdparams", "-resume="]).MODEL.RESUME is None
    assert config_from_arguments(words).MODEL.RESUME


@pytest.mark.parametrize(
    "words",
    [
        "-c beit_tiny_patch16_224 -o TRAIN.BASE_LR=1e-3 MODEL.NAME=a=b -o SEED 7",
        "--cfg beit_tiny_patch16_224 --opts TRAIN.BASE_LR 1e-3 MODEL.NAME a=b SEED=7",
        "-cfg=beit_tiny_patch16_224 -opts SEED=7 TRAIN.BASE_LR 1e-3 MODEL.NAME=a=b",
    ],
)
def test_options_with_and_without_an_equals_sign(words: str) -> None:
    config = config_from_arguments(words.split())
    assert (config.MODEL.NAME, config.TRAIN.BASE_LR, config.SEED, config.MODEL.EMBED_DIM) == (
        "a=b",
        1e-3,
        7,
        192,
    )


@pytest.mark.parametrize("flag", ["-batch_size", "--batch_size", "--batch-size", "-batch-size"])
def test_a_flag_takes_one_dash_or_two_and_either_separator(flag: str) -> None:
    assert config_from_arguments([flag, "3"]).DATA.BATCH_SIZE == 3
    assert config_from_arguments([f"{flag}=3"]).DATA.BATCH_SIZE == 3
