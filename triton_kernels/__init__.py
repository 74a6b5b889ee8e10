"""The kernels in Triton, with their launchers; installed as `fastdml.triton_kernels`."""
