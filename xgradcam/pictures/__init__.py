"""Pixels: reading photographs, fitting them to a network's input, painting heatmaps over them.

It must not know networks.
"""
