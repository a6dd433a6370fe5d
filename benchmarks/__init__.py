"""Benchmarks of the server (`make bench`). Most figures are ratios of two sides that are measured in the same run."""
