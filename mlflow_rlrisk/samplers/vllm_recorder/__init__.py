"""What runs inside vLLM's workers: exact entropies of every sampled token, in the same pass.

vLLM has no entropy output, so a custom logits processor sees the distribution that each token is
drawn from. It comes for both model runners of vLLM (``v1``; ``v2``, which has an interface of its
own and rejects the other), and in two forms: `EntropyRecorder` keeps entropies on the device until
`RecorderExtension` is asked for them, and ``in_band`` sends them back beside the logprobs, which
works over HTTP. The classes are named to the engine and are no entry point of
``vllm.logits_processors``: vLLM would load them into every engine of the machine, and one that is
made for the other runner stops them all.
"""

from typing import Literal

Runner = Literal["v1", "v2"]

RECORDER: dict[Runner, str] = {
    "v1": "mlflow_rlrisk.samplers.vllm_recorder.v1:EntropyRecorder",
    "v2": "mlflow_rlrisk.samplers.vllm_recorder.v2:EntropyRecorder",
}
"""``logits_processors=[...]`` of an engine whose records are drained."""

EXTENSION = "mlflow_rlrisk.samplers.vllm_recorder.worker.RecorderExtension"
"""``worker_extension_cls`` of the same engine."""

UID = "rlrisk_uid"
"""Key of `SamplingParams.extra_args`: the number under which a request's entropies are recorded."""
