"""Building blocks of learning algorithms: networks, policies, rollouts, returns, losses, optimisers."""
