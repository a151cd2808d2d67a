"""DICOM studies: folders, zip archives and single files.

`read` is the module of the table of readers. The way of a study:
`files` finds the files, `headers` parses them, `views` and `vendors` look up
attributes in whatever way they are coded, `frames` makes frames of them,
`series` says what each series shows, `choose` picks those of a case,
`geometry` stacks their frames and `pixels` decodes them.
"""
