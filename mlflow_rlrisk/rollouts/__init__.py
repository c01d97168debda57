"""The folder of an assessment: rollouts and grades in shards, and what was measured later."""
