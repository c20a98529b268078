"""Holds GPU memory until its standard input ends: holder.py BYTES, with PyTorch."""

import sys

import torch

if __name__ == "__main__":
    held = torch.empty(int(sys.argv[1]), dtype=torch.uint8, device="cuda:0")
    held.zero_()
    torch.cuda.synchronize()
    sys.stdout.write("holds\n")
    sys.stdout.flush()
    sys.stdin.read()
