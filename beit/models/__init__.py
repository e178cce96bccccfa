"""Models around the encoder: pre-training, tokenizers, segmentation."""
