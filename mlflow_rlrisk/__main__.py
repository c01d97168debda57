"""``python -m mlflow_rlrisk`` is the command ``rlrisk``."""

from mlflow_rlrisk.cli import run

if __name__ == "__main__":
    run()
