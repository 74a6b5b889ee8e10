"""Benchmarks: `pytest bench --benchmark-only` on this machine, `bench/gpu.sh` on a GPU, `python -m bench.report`."""
