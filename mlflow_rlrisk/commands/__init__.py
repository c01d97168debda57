"""One module for each ``rlrisk`` command or group of commands: parse, call one function, print.

`mlflow_rlrisk.cli` finds a command in its table and imports only that one's module. A command
returns its exit code.
"""
