"""The layout of a layer's output: the places of the image that its entries lie at.

This folder knows neither scores nor gradients.
"""
