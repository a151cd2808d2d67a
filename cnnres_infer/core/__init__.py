"""Types shared by all sub-packages: no I/O, no file formats, only numpy."""
