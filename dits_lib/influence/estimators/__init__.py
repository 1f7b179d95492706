"""One file for each estimator: how it scores, its own settings, what it takes (`ESTIMATOR`).

A new file here is found by itself (`influence/registry.py`); nothing else has to be changed.
"""
