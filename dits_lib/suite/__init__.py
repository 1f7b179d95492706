"""The experiments around the method: parameters, stages as artifacts, and a study for each
notebook."""
