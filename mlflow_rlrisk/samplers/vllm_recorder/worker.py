"""The worker extension: hands the records to the client in bounded chunks."""

from typing import Any

from mlflow_rlrisk.samplers.vllm_recorder.core import RECORDER


class RecorderExtension:
    """Mixed into vLLM's worker class; its methods are called through ``collective_rpc``."""

    def rlrisk_drain(self) -> dict[str, Any]:
        """The oldest block of records and how many are left, see `Recorder.drain`."""
        return RECORDER.drain()

    def rlrisk_clear(self) -> None:
        """Forget all records: they belong to requests that nobody waits for."""
        RECORDER.clear()

    def rlrisk_logits(self) -> dict[str, Any]:
        """What the output head of the loaded model gives: its dtype and number of words."""
        worker: Any = self
        model: Any = worker.model_runner.model
        modules = [model, *model.modules()]
        processor = next(
            each.logits_processor for each in modules if hasattr(each, "logits_processor")
        )
        processor = getattr(processor, "base_layer", processor)  # an adapter wraps it
        dtype = getattr(processor, "head_dtype", None) or worker.model_config.dtype
        return {
            "dtype": str(dtype).removeprefix("torch."),
            "num_words": int(processor.org_vocab_size),
        }
