"""The promotion gate: the registry itself refuses a risky or unproven checkpoint.

`store` is the MLflow plugin; it asks a `Gatekeeper`, which collects the evidence on a version,
lets the pure `guard` judge it under the policy file, and writes the `audit` log. Every module here
fails closed: what cannot be decided is refused. Nothing here loads a model, torch or transformers.
"""
