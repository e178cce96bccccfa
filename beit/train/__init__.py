"""One training run: state, loop, log lines, checkpoints, output folder."""
