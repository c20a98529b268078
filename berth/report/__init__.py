"""`berth report`: one archive with what a person needs who is asked for help, without secrets.

secrets    what has to be masked, from the environment and the files of the run directory
parts      what is in it, each part by itself: what cannot be had is named, and the others are there
machine    the container, its limits and its GPUs
archive    all parts, masked, as a tar
"""
