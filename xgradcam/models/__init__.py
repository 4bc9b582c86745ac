"""From a name to a classifier: building, weights, labels and preprocessing.

It must not know how maps are made.
"""
