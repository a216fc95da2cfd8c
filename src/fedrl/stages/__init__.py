"""Steps of the pipeline an update passes on its way out of an agent."""
