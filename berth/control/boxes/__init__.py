"""Engines that run on several boxes: the controls of the boxes start and end their ranks as one.

group   what the head and the others decide about a replica, from what they heard of each other; pure
link    the messages: a listener on every box, and a beat from each of the others to the head
"""
