"""What the DICOM outputs share.

`origin` gathers what they are made of, and gives them their UIDs; `objects` makes
the attributes that all of them have, and their bytes; `references` refers to
source images; `geometry` places frames; `concepts` holds the codes. `segmentation`
and `content` make what is special to a SEG and to an SR.

highdicom insists on attributes that real files lack and stumbles over what they
hold. It is therefore never given their headers, but a plain stand-in, made of the
volume's grid and of what the reader kept.
"""
