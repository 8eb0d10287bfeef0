"""ONNX Runtime: feeds, sessions, comparisons, metrics, latency."""
