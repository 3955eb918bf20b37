"""Figures of the benchmarks: localization, segmentation, retrieval, use of codes."""
