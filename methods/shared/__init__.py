"""What several methods use: matching by class, gradients, trajectories, pools, coresets."""
