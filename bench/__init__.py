"""Run `pytest bench --benchmark-only` here, `bench/gpu.sh` on a GPU; `python -m bench.report`."""
