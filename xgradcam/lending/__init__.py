"""A caller's model and inputs: run in evaluation mode, watched if asked, and left as they were.

This folder does not know what is explained.
"""
