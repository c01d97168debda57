"""Property tests here are compared with slow oracles on shared machines: no time limit each."""

from hypothesis import settings

settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")
