"""What can run here, and why: the registry, and the backends it chooses from."""

from fastdml.backends.registry import BACKENDS, Choice, available_backends, select, use_backend

__all__ = ["BACKENDS", "Choice", "available_backends", "select", "use_backend"]
