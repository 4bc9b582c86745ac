"""Eq. 5 of the paper: a score as the sum of its feature term and every constant behind the layer.

This folder does not know the methods.
"""
