"""Many photographs in, files out: sources, batches, results, the record of a run and its page.

It knows no command line.
"""
