"""PyTorch's operations one by one: how each was called, what constant it adds, and where its results lie.

This folder does not know layers and scores.
"""
