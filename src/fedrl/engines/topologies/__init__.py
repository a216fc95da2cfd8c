"""Topologies of a simulation: the broadcasts that agents receive, and the merge of the updates that arrived."""
