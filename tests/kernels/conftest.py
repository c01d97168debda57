import os

# Triton reads the variable when it is first imported: `tests/vllm` starts a process with it.
collect_ignore = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["triton_cases.py"]
