"""How a model reference becomes a `RiskReport`: the stages, and what a rerun goes on from.

`wiring` puts the stages together, `rounds` samples and grades as the `budget` asks, `stored`,
`finished` and `rescored` are the ways to an assessment whose rollouts are there already.
"""
