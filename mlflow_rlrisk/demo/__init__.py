"""The demo: a ladder of SFT checkpoints on a task with many right answers, assessed in MLflow."""
