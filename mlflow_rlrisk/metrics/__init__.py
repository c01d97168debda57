"""Prompt statistics -> metrics with intervals.

`catalogue` names them, the columns put statistics of prompts side by side, `aggregate` resamples.
"""
