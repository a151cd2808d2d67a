"""Calibration of INT8 variants behind an accuracy gate; needs a checkout, PyTorch and ONNX."""
