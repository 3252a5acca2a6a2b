"""CUDA C++ kernels for Hopper, compiled at run time: sources (`*.cu`, `*.cuh`), their compiler and their launcher.

Knows nothing of ops or layers: an op's file beside this folder says what a kernel computes and fills its arguments. Nothing
here is imported before the first tensor on a Hopper card. Open compiler.py first, then launcher.py.
"""
