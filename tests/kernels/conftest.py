import os

# Triton reads the variable when it is first imported: `tests/vllm` starts a process with it.
CASES = ["row_kernel_cases.py", "triton_cases.py"]
collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else CASES
