"""The experiments around the method: parameters, stages as artifacts, and one study for each notebook."""
