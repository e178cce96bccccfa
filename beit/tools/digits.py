"""`python -m beit.tools.digits FOLDER`: write the handwritten digits of the demonstration into a folder."""

from __future__ import annotations

import sys
from pathlib import Path

from beit.data.digits import write_digits

if __name__ == "__main__":
    print(write_digits(Path(sys.argv[1])))
