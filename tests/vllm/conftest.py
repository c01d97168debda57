"""These tests need vLLM's own environment: ``make pytest-vllm`` builds it and requires it."""

import os
from importlib.util import find_spec

import pytest

HAS_VLLM = find_spec("vllm") is not None

if not HAS_VLLM and os.environ.get("RLRISK_REQUIRE_VLLM") == "1":
    raise pytest.UsageError("vllm is not installed, and these tests were asked for")

collect_ignore_glob = [] if HAS_VLLM else ["test_*.py", "compile_kernels.py"]
