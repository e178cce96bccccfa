"""`python -m beit.tools.digits FOLDER`: write the handwritten digits of the demonstration into a folder."""

from __future__ import annotations

from beit.data.digits import write_digits
from beit.tools.arguments import write_into_folder

if __name__ == "__main__":
    write_into_folder(__doc__, write_digits)
