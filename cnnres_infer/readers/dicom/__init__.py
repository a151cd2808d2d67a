"""DICOM studies: folders, zip archives and single files.

`read` is the module of the table of readers. The way of a study: `files` finds
the files, `headers` parses them, `views` and `vendors` look up attributes in
whatever way they are coded, `kinds` tells what an image shows, `frames` makes
frames of files (`mosaic` of tiles), `series` and `study` group them, `choose`
picks those of a case with `selected` and `companions`, `geometry` stacks them,
`second_opinion` checks mosaics, and `pixels` decodes what was picked.
"""
