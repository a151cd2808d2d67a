"""The service beside the scanner: a hot folder, a DICOM listener, contracts of platforms.

`state` has the folders of a work area and the renames between them. `hot_folder`
tells which studies are complete, `worker` computes them with one model, and
`run` is the loop. `receiver` takes studies over the network and `store` keeps
them; `retry_queue` and `sender` push results; `transport` has TLS. `health` has the log and the
figures, `status` reads them. `app` and `contracts` run one study in a container.
"""
