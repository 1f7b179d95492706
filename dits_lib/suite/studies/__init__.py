"""The experiments of the notebooks, one module for each notebook.

A module has a job, which computes one part of the experiment (a task, a seed) and returns plain
numbers, and the keys that it is run for. All heavy results stay in the store, so a job that is
asked for again is nearly free.
"""
