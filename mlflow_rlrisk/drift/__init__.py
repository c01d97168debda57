"""Two checkpoints side by side: weights, data, and what each makes of the other's rollouts."""
