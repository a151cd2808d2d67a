"""Conversion of volumes to the network's input images, and of its outputs back to volumes.

An image is an axial slice in radiological convention: row 0 is anterior, column
0 is the patient's right. Training, export and inference all use this code, so
that they see the same images.
"""
