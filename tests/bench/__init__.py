"""Benchmarks: figures for people, side by side in one run. No test, no threshold."""
