"""Expert demonstrations: whole answers of a dataset, and how a checkpoint sees their tokens."""
