"""From a model's name to a classifier: the network, its weights, its preprocessing and its class names.

This folder must not know how maps are made, and never prints.
"""
