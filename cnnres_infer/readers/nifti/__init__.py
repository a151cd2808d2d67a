"""NIfTI-1 and NIfTI-2 files, compressed or not."""
