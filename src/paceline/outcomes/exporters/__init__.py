"""Writing outcomes in the layouts of the public profiling scripts."""
