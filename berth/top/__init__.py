"""`berth top`: what Berth does, live, on a terminal. It only reads: files of the run directory, or /events of a server.

main     arguments, and the loop of frames and keys
sources  where the numbers come from
view     what the user has chosen, and what its keys change
screen   a frame, from the numbers and the view
keyboard single keys from a terminal
"""
