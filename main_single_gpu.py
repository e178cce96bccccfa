"""Train or evaluate on one device: flags to config to run."""

import sys

if __name__ == "__main__":
    from beit.cpu import before_paddle

    before_paddle()
    from beit.train.entry import main

    sys.exit(main("main_single_gpu.py", single=True))
