"""Train or evaluate on all visible GPUs of this machine (or -nprocs ranks on a CPU): flags to config to run."""

import sys

if __name__ == "__main__":
    from beit.cpu import before_paddle
    from beit.install import require_paddle
    from beit.parallel.signals import exit_on_stop_signals

    require_paddle()
    before_paddle()
    with exit_on_stop_signals():
        from beit.flags import training_parser
        from beit.train.entry import main

    sys.exit(main(training_parser("main_multi_gpu.py"), single=False))
