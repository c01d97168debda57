"""What the figures say, in sentences that follow from them whichever way they turn out."""

from collections.abc import Mapping
from typing import Any

from examples.study.predictors import DURING, OURS, RIVALS


def findings(found: Mapping[str, Any]) -> str:
    """The findings as a Markdown list."""
    sentences = [_ranking(found), _picking(found), _failing(found), _calibration(found)]
    sentences.append(_choice(found))
    sentences += _levels(found)
    return "".join(f"* {sentence}\n" for sentence in sentences)


def _ranking(found: Mapping[str, Any]) -> str:
    own, best, value = _best(found, "within")
    verb = "beats" if own > value else "does not beat"
    reference = found["predictors"]["pass@64"]["within"]
    low, high = found["predictors"][OURS]["less_reference"]
    return (
        f"Ranking by final pass@1: the index **{verb}** the best single predictor, {best}: "
        f"{own:.2f} and {value:.2f} within a lineage. pass@64 has {reference:.2f}; the index less "
        f"pass@64 lies in [{low:.2f}, {high:.2f}]."
    )


def _picking(found: Mapping[str, Any]) -> str:
    regrets = {name: found["predictors"][name]["regret"] for name in (OURS, *RIVALS)}
    ahead = sum(regrets[name] < regrets[OURS] for name in RIVALS)
    place = "least of all, or level with it" if ahead == 0 else f"{ahead} rivals cost less"
    names = {"pass@1": "pass@1 sampled", "pass@10": "pass@10", "pass@64": "pass@64"}
    others = ", ".join(f"by {short} {regrets[name]:.3f}" for short, name in names.items())
    return (
        f"Starting from the one checkpoint of each lineage that the index prefers costs "
        f"{regrets[OURS]:.3f} of final pass@1 ({place}); {others}."
    )


def _failing(found: Mapping[str, Any]) -> str:
    own, best, value = _best(found, "auroc_failed")
    verb = "is ahead of" if own > value else "is level with" if own == value else "is behind"
    paper = found["predictors"][DURING]["auroc_failed"]
    low, high = found["auroc_interval"]
    least, most = found["auroc_less_reference"]
    return (
        f"Finding runs that fail: AUROC {own:.3f} [{low:.2f}, {high:.2f}], which {verb} the best "
        f"single predictor, {best} ({value:.3f}); the index less pass@64 lies in [{least:.2f}, "
        f"{most:.2f}]. The published entropy rule, which looks into the run itself, has "
        f"{paper:.2f}."
    )


def _best(found: Mapping[str, Any], key: str) -> tuple[float, str, float]:
    known = {name: found["predictors"][name][key] for name in RIVALS}
    best = max(known, key=lambda name: known[name] if known[name] is not None else -2.0)
    return found["predictors"][OURS][key], best, known[best]


def _calibration(found: Mapping[str, Any]) -> str:
    calibration = found["calibration"]
    briers = dict(calibration["brier"])
    own = briers.pop("risk_index")
    best = min(briers, key=lambda name: briers[name])
    verdict = "so a policy would use it" if calibration["used"] else "so no policy would use it"
    # A rival that is no worse does not stop a calibration only where it predicts the same.
    same = ", by the same predictions" if calibration["used"] and briers[best] <= own else ""
    low, high = calibration["brier_interval"]
    return (
        f"As a chance of failure (`rlrisk calibrate`, {calibration['kind']}, each lineage by the "
        f"other two): Brier score {own:.3f} [{low:.2f}, {high:.2f}], skill "
        f"{calibration['skill']:.2f}; the best rival is {best} with {briers[best]:.3f}{same}, "
        f"{verdict}."
    )


def _choice(found: Mapping[str, Any]) -> str:
    means = {
        pool: sum(score for _, score in each.values()) / len(each)
        for pool, each in found["chosen_elsewhere"].items()
    }
    taken = sorted({name for name, _ in found["chosen_elsewhere"]["best candidate"].values()})
    frozen, single = means["best candidate"], means["best single predictor"]
    verb = "are ahead of" if frozen > single else "are not ahead of"
    return (
        f"Candidates chosen on the other lineages ({', '.join(f'`{name}`' for name in taken)}) "
        f"{verb} the best single predictor chosen so ({frozen:.2f} and {single:.2f})."
    )


def _levels(found: Mapping[str, Any]) -> list[str]:
    levels = found["levels"]
    failed_low = levels.get("low", {"failed": 0})["failed"]
    num_good = sum(each["good"] for each in levels.values())
    good_high = levels.get("high", {"good": 0})["good"]
    failed_high = levels.get("high", {"failed": 0})["failed"]
    which = "No checkpoint" if failed_low == 0 else f"**{failed_low} checkpoints**"
    then = found["levels_then"]
    low, high = (then.get(level, {"failed": 0, "good": 0}) for level in ("low", "high"))
    return [
        f"{which} whose run failed is called `low`; {failed_high} of {found['num_failed']} failed "
        f"ones are called `high`, and so are {good_high} of {num_good} that did not fail "
        f"({good_high / num_good:.0%}). These lines were moved after the outcomes were known.",
        f"By the levels given before the runs, under the index of then, {low['failed']} of "
        f"{sum(low.values())} `low` checkpoints failed; {high['failed']} of {found['num_failed']} "
        f"failed ones were `high`, and so were {high['good']} of {num_good} others.",
    ]
