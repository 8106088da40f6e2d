"""Weights in the memory of accelerators: what a backend says of its devices, and how tensors come from there.

Everything is decided from what the runtime of the backend says. So tests run without a device, with the CPU's devices
or stand-ins in its place.
"""
