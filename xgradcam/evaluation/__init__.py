"""Which map to trust: measures of maps on photographs, and a report over many.

It knows models and maps, but no command line.
"""
