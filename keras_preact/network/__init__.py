"""The networks of the paper: what they are, how a unit is built and run, their weights by name, their costs.

It imports nothing of the rest of the package but its errors, files and bounds.
"""
