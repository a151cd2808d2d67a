"""NIfTI-1 and NIfTI-2 files, with or without gzip compression."""
