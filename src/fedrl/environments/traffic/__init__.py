"""Vehicles on lanes: car following, fuel, lane changes, and a platoon that learns to keep its gaps."""
