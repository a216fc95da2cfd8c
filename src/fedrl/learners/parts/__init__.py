"""What learning algorithms are made of: networks, policies, rollouts, returns, losses, optimisers."""
