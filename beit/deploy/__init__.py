"""Exported models: static graphs and ONNX files, their descriptions, and the engines that run them."""
