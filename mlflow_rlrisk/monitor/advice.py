"""What may help a run whose alarms stand: remedies with source, occasion and exact settings.

None is a promise. The study that drew most lines tried a KL penalty and label smoothing on
collapsed checkpoints, and neither rescued them; `CAUTION` says so beside every list.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlflow_rlrisk.monitor.alarms import Alarm
from mlflow_rlrisk.monitor.policy import RuleId

CAUTION = (
    "a KL penalty and label smoothing did not rescue collapsed checkpoints in the source study "
    "(arXiv:2606.18487: KL 0.01 lowered the peak of both ends of the ladder, label smoothing "
    "0.1 raised entropy and lowered the peak); high entropy by itself is no use"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One remedy.

    Attributes:
        name: What it is called.
        source: Who proposed it, with what evidence.
        when: The occasion.
        rules: Alarms that it answers.
        trl: The exact setting of TRL's `GRPOConfig`, or that there is none.
        verl: The exact setting of verl.
        limits: What it does not do.
    """

    name: str
    source: str
    when: str
    rules: tuple[RuleId, ...]
    trl: str
    verl: str
    limits: str

    def to_dict(self) -> dict[str, Any]:
        """The entry as JSON values, the caution with it."""
        return {**asdict(self), "rules": list(self.rules), "caution": CAUTION}


ADVICE: tuple[Advice, ...] = (
    Advice(
        name="other checkpoint",
        source="arXiv:2606.18487, arXiv:2510.01624",
        when="groups were dead or success was below p*(g) from the start",
        rules=("R3", "R4", "R5", "R1"),
        trl="GRPOTrainer(model=...): a shallower version of the same SFT run (rlrisk compare)",
        verl="actor_rollout_ref.model.path=...: likewise",
        limits="the only remedy that the source study found to move the ceiling",
    ),
    Advice(
        name="clip-higher",
        source="DAPO, arXiv:2503.14476",
        when="entropy falls while rewards still rise",
        rules=("R1",),
        trl="GRPOConfig(epsilon=0.2, epsilon_high=0.28)",
        verl="actor_rollout_ref.actor.clip_ratio_low=0.2 "
        "actor_rollout_ref.actor.clip_ratio_high=0.28",
        limits="acts only where a batch is used for several updates: on-policy steps never clip",
    ),
    Advice(
        name="Clip-Cov",
        source="arXiv:2505.22617 (share 2e-4, covariance 1 to 5, Qwen2.5)",
        when="entropy falls, token covariance is positive (rlrisk monitor --token-log)",
        rules=("R1",),
        trl="none in GRPOConfig 1.16",
        verl="actor_rollout_ref.actor.policy_loss.loss_mode=clip_cov "
        "actor_rollout_ref.actor.policy_loss.clip_cov_ratio=0.0002 "
        "actor_rollout_ref.actor.policy_loss.clip_cov_lb=1.0 "
        "actor_rollout_ref.actor.policy_loss.clip_cov_ub=5.0",
        limits="the band of covariances was tuned on one model family",
    ),
    Advice(
        name="KL-Cov",
        source="arXiv:2505.22617 (share 2e-3 at 7B, 2e-4 at 32B, coefficient 1)",
        when="as Clip-Cov; steadier in the paper",
        rules=("R1",),
        trl="none in GRPOConfig 1.16",
        verl="actor_rollout_ref.actor.policy_loss.loss_mode=kl_cov "
        "actor_rollout_ref.actor.policy_loss.kl_cov_ratio=0.002 "
        "actor_rollout_ref.actor.policy_loss.ppo_kl_coef=1",
        limits="penalises the few tokens of highest covariance, unlike a KL penalty on all",
    ),
    Advice(
        name="entropy-shaped advantage",
        source="arXiv:2506.14758 (alpha 0.4, kappa 2 for GRPO)",
        when="entropy falls and answers get shorter or more alike",
        rules=("R1",),
        trl="none in GRPOConfig 1.16; GRPOConfig(top_entropy_quantile=0.2) updates forking tokens "
        "only (arXiv:2506.01939)",
        verl="none in the main trainer; the authors' fork adds it to the advantage",
        limits="adds min(alpha H, |A| / kappa) with H detached: it never turns an advantage's sign",
    ),
    Advice(
        name="dynamic sampling",
        source="DAPO, arXiv:2503.14476",
        when="many groups carry no reward difference but some do",
        rules=("R4",),
        trl="none in GRPOConfig 1.16: filter prompts beforehand by solve rate",
        verl="algorithm.filter_groups.enable=True algorithm.filter_groups.metric=acc "
        "algorithm.filter_groups.max_num_gen_batches=10",
        limits="costs 1 / (1 - zero-variance share) of the rollouts; no cure when nearly all die",
    ),
    Advice(
        name="OPO baseline",
        source="arXiv:2505.23585",
        when="rewards go with length, or entropy surges",
        rules=("R2", "R8"),
        trl="none in GRPOConfig 1.16; GRPOConfig(loss_type='dr_grpo', scale_rewards='none') takes "
        "the length bias out of the loss",
        verl="algorithm.adv_estimator=opo",
        limits="meant for exactly on-policy training without KL or entropy terms",
    ),
    Advice(
        name="larger group",
        source="definition of p*(g); rlrisk assess says the g that would carry signal",
        when="success is just below p*(g)",
        rules=("R3", "R4"),
        trl="GRPOConfig(num_generations=16)",
        verl="actor_rollout_ref.rollout.n=16",
        limits="p*(g) falls as 1/g only: a poor cure for what is far below it",
    ),
    Advice(
        name="lower learning rate",
        source="convention; a public pilot that died of an entropy surge",
        when="entropy surges within the first 50 steps, or the run diverges into NaN",
        rules=("R2", "R5"),
        trl="GRPOConfig(learning_rate=..., max_grad_norm=0.2)",
        verl="actor_rollout_ref.actor.optim.lr=... actor_rollout_ref.actor.grad_clip=0.2",
        limits="one run's evidence",
    ),
    Advice(
        name="longer completions",
        source="a public pilot's stop rule",
        when="completions reach the token limit",
        rules=("R6", "R8"),
        trl="GRPOConfig(max_completion_length=..., mask_truncated_completions=True)",
        verl="data.max_response_length=... "
        "reward_model.overlong_buffer.enable=True (DAPO reward manager)",
        limits="find out first why answers do not end: stop token, template, loops",
    ),
    Advice(
        name="importance correction",
        source="TRL and verl documentation",
        when="trainer and sampler disagree",
        rules=("R7",),
        trl="GRPOConfig(vllm_importance_sampling_correction=True)",
        verl="algorithm.rollout_correction.rollout_is=token "
        "algorithm.rollout_correction.rollout_is_threshold=2.0",
        limits="look for the cause as well: dtype, top_p, chat template, engine version",
    ),
)


def advise(alarms: Sequence[Alarm]) -> tuple[Advice, ...]:
    """The remedies that answer the alarms that stand, in the order of the table."""
    raised = {alarm.rule for alarm in alarms}
    return tuple(each for each in ADVICE if raised.intersection(each.rules))
