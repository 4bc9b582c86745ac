"""The choice of a map to trust: measures of maps on photographs, and a report of their means.

It uses models, maps and photographs. It knows no command line: it takes plain values and prints nothing.
"""
