"""The scoring service: the checks of `mlflow_rlrisk` over HTTP, durable, with a dashboard.

It imports public names of `mlflow_rlrisk` only. Nothing here measures or judges anything.
"""
