"""A trained network as ONNX and TFLite, float and int8: export, quantization, runtimes and parity."""
