"""What only a GPU can show: `bench/gpu.sh` runs these modules. `--device cpu --tiny` tries them anywhere."""
