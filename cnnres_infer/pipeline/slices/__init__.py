"""From a volume to the images that the network sees, and exactly back.

An image of the network is an axial slice in radiological orientation: row 0 is
anterior, column 0 is the patient's right. Training, export and inference all
come through here, so that all of them see the same images.
"""
