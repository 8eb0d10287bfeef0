"""Operators of `com.microsoft`, the domain of ONNX Runtime."""
