"""Benchmarks: the same work by this package and by other libraries. Baselines run in processes of their own."""
