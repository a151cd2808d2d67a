"""The types that every other room shares: no files, no formats, numpy alone."""
