"""From a config to a trained network: what a step computes and when it is taken."""
