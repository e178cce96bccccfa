"""One training run: state, loop, log lines, checkpoints, output folder. The module can be called: `beit.train(...)`."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from yacs.config import CfgNode

from beit.train.api import RunResult, train


class _CallableModule(ModuleType):
    """`beit.train` is this package and the function of its name."""

    def __call__(
        self,
        config: str | Path | CfgNode,
        data: str | Path | None = None,
        output: str | Path | None = None,
        **options: Any,
    ) -> RunResult:
        return train(config, data, output, **options)


sys.modules[__name__].__class__ = _CallableModule
