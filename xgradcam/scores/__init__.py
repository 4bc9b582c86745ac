"""The number that is explained: from what a model returned to a score for each sample.

This folder does not know layers.
"""
