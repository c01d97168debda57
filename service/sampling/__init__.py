"""One assessment from its row to its report, in a process and behind walls of its own.

`scoring` runs it, `process` starts and ends the `child` that samples, `walls` are put up around
it, `sandboxes` tells whether programs can be judged behind them.
"""
