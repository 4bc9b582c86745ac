"""From evidence at a layer to a map: the methods, the explanation and its notes.

It must not know where a model came from or where pictures go.
"""
