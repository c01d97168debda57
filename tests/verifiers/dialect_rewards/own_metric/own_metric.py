# mypy: disable-error-code="no-untyped-def"
import re

import datasets
import evaluate


class OwnMetric(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="The last number is the answer.",
            citation="",
            inputs_description="",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions, references):
        found = [re.findall(r"-?\d+", text) for text in predictions]
        pairs = list(zip(found, references, strict=True))
        scores = [0.0 if not n else 1.0 if n[-1] == truth else 0.1 for n, truth in pairs]
        return {"own_metric": sum(scores) / len(scores), "count": len(scores)}
