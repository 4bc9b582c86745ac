"""One forward and one gradient: run a model, keep a layer's activation and the graph behind it.

It must not know what the activation is used for.
"""
