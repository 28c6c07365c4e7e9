"""The trained network in the formats that others run: ONNX and TFLite, float and int8, and their parity."""
