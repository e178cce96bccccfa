"""Models outside this package: static graphs and ONNX files, what describes them, and what runs them."""
