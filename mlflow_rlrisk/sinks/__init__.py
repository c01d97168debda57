"""Everything that writes a finished report somewhere: the MLflow run, the registry, a page.

A sink reads a `RiskReport` and changes nothing in it. MLflow and matplotlib are imported inside
functions, so that importing a sink costs nothing.
"""
