"""One forward and one gradient: run a model, keep a layer's activation and the graph behind it.

This folder does not know what the activation is used for.
"""
