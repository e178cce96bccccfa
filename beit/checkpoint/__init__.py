"""Reading, adapting and writing checkpoints."""
