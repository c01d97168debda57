"""A trainer that loads only what was attested: one changed byte of the weights and it refuses.

Everything happens in the current folder: a key pair, a policy file, a registry in SQLite and a
checkpoint that is assessed and signed. Run it as it is (about a minute on a laptop).
"""

import os
import subprocess
import sys
from pathlib import Path

import mlflow  # noqa: TID253  (an example may)

import mlflow_rlrisk
from mlflow_rlrisk import log_checkpoint, verify
from mlflow_rlrisk.errors import PromotionRefusedError

BASE = Path(mlflow_rlrisk.__file__).parent / "demo"


def rlrisk(*arguments: str) -> str:
    code = "import sys; from mlflow_rlrisk.cli import run; run(sys.argv[1:])"
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout


def train(model_uri: str) -> None:
    """What a trainer does: verify first, then load from the folder that was verified."""
    folder = verify(model_uri)
    print(f"training starts from {folder}")


here = Path.cwd()
os.environ |= {
    "MLFLOW_TRACKING_URI": f"sqlite:///{here}/mlflow.db",
    "MLFLOW_REGISTRY_URI": f"rlrisk+sqlite:///{here}/mlflow.db",  # mlflow server has it in front
    "RLRISK_KEY": str(here / "signing_key.pem"),
    "RLRISK_KEY_RING": str(here / "key_ring.json"),
    "RLRISK_POLICY": str(here / "policy.yaml"),
}
rlrisk("keys", "init")
policy = rlrisk("policy", "init", "--protect", "rl-ready")
# The shipped base is a toy of medium risk; a real policy would ask for low.
Path("policy.yaml").write_text(policy.replace("required_level: low", "required_level: medium"))
lines = (BASE / "data" / "rl.jsonl").read_text().splitlines()[:60]
Path("prompts.jsonl").write_text("\n".join(lines))

mlflow.set_experiment("gate")
version = log_checkpoint(BASE / "base", "coder-sft")
model = f"models:/coder-sft/{version.version}"
print(rlrisk("gate", "promote", model, "--alias", "rl-ready"))
verifier = ["--verifier", "mlflow_rlrisk.demo.task:reward"]
sampling = ["--num-samples", "8", "--group-size", "4", "--max-new-tokens", "20"]
rlrisk("assess", model, "--prompts", "prompts.jsonl", *verifier, *sampling, "--register", "--sign")
print(rlrisk("gate", "promote", model, "--alias", "rl-ready"))
train("models:/coder-sft@rl-ready")

weights = verify("models:/coder-sft@rl-ready") / "model.safetensors"
content = bytearray(weights.read_bytes())
content[-1] ^= 1
weights.write_bytes(content)
try:
    train("models:/coder-sft@rl-ready")
except PromotionRefusedError as refusal:
    print(f"the trainer refuses: {refusal}")
else:
    raise SystemExit("a changed checkpoint was loaded")
