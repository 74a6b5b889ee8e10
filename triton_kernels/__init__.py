"""Triton kernels of the engines, free of autograd: tensors in, tensors out."""
