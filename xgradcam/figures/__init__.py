"""Figures and short texts of results: maps over photographs by matplotlib, tables for notebooks.

Nothing here runs a network, and matplotlib is imported only when something is drawn.
"""
