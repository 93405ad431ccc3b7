"""Benchmarks: each prints its table and writes JSON. Ratios within one run count; absolutes belong to the machine."""
