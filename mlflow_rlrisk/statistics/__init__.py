"""Arrays in, arrays out: every estimator, interval and rank statistic of the risk report.

Import rule: this folder knows NumPy, SciPy and the level below (``errors``), nothing else; a
lint contract and a test hold it to that. It reads no file, holds no state and never guesses: an
input outside its contract raises, and no NaN is returned.

Axes: ``P`` prompts, ``U`` distinct count pairs, ``B`` resamples, ``M`` metrics, ``T`` tokens,
``V`` vocabulary, ``K`` top tokens or distinct answers. Entropies are in nats.
"""
