"""Makes the envelope of an override that was asked for; runs where the private keys are.

Nothing that is signed comes from the caller but the id of a row. Policy, place, content and
people are read and checked here again, at the moment of signing.
"""

import time
from collections.abc import Sequence
from functools import partial

from mlflow_rlrisk import ConfigError, ModelReferenceError, RLRiskError, resolve_reference
from mlflow_rlrisk.attestation import sign_override
from mlflow_rlrisk.attestation.keys import SigningKey
from mlflow_rlrisk.errors import AttestationError, CheckpointError
from mlflow_rlrisk.gate.client import load_bar
from mlflow_rlrisk.gate.overrides import draw_up
from mlflow_rlrisk.gate.promotion_policy import Target
from mlflow_rlrisk.plurals import counted
from service.registry.bounded_calls import bounded, call_limit_s, timed
from service.registry.references import refusal_of_source
from service.registry.upstream import point_mlflow
from service.settings import ServiceSettings
from service.signing.client import ANSWER_LIMIT_S
from service.signing.protocol import SignerRefusedError
from service.tables.overrides import OverrideRow, OverrideState, OverrideTable
from service.tables.tokens import ANYBODY, Scope, TokenTable


def signed_override(
    override_id: str,
    *,
    overrides: OverrideTable,
    tokens: TokenTable,
    settings: ServiceSettings,
    keys: Sequence[SigningKey],
) -> str:
    """The envelope of an approved request, with one signature for each person behind it.

    Asked again, or twice at once, it gives the same one: what was approved once is signed once.

    Args:
        override_id: Its row.
        overrides: Where the row is.
        tokens: Whose tokens still count.
        settings: Registry, and folders that versions may lie in.
        keys: Private keys: the first signs for who asked, the second for who approved.

    Raises:
        SignerRefusedError: It is not approved, a person or a key is missing, the policy does not
            take it, or the version's signature is bad, which nothing lifts.
    """
    row = overrides.find(override_id)
    if row is None or row.state is not OverrideState.APPROVED:
        raise SignerRefusedError("not_approved", "no approved request has this id")
    _check_people(row, tokens)
    client = timed(point_mlflow(settings))
    model = f"models:/{row.model}/{row.version}"
    try:
        bar = load_bar()
        needed = bar.policy.override.required_signatures
        if not len(row.people) >= needed:
            raise SignerRefusedError(
                "not_approved", f"{counted(needed, 'person is', 'people are')} needed"
            )
        if not len(keys) >= needed:
            need = f"the policy asks for {counted(needed, 'key')}, the signer holds {len(keys)}"
            raise SignerRefusedError("keys_missing", need)
        source = bounded(lambda: resolve_reference(model), call_limit_s())
        if (why := refusal_of_source(source, settings)) is not None:
            raise SignerRefusedError("model_uri_refused", why)
        if (kept := overrides.envelope(row.id)) is not None:
            return kept
        draw = partial(
            draw_up,
            client,
            model,
            Target(row.target_kind, row.target_name),  # type: ignore[arg-type]
            reason=row.reason,
            expires=row.expires,
            bar=bar,
            requested_by=tuple(f"{name} (token {token_id})" for token_id, name in row.people),
        )
        statement = bounded(draw, ANSWER_LIMIT_S)  # nobody waits longer for it
    except ModelReferenceError as error:
        raise SignerRefusedError(error.code, str(error), is_final=False) from error
    except (AttestationError, ConfigError, CheckpointError) as error:
        raise SignerRefusedError(getattr(error, "reason", error.code), str(error)) from error
    except RLRiskError as error:
        raise SignerRefusedError(error.code, str(error), is_final=False) from error
    except OSError as error:
        raise SignerRefusedError("not_readable", str(error), is_final=False) from error
    return overrides.keep(row.id, sign_override(statement, keys[: len(row.people)]))


def _check_people(row: OverrideRow, tokens: TokenTable) -> None:
    for token_id, name in row.people:
        if token_id == ANYBODY.id and not tokens.list():
            continue  # a service without tokens, on loopback
        if not tokens.still_allows(token_id, Scope.OVERRIDE, time.time()):
            raise SignerRefusedError("token", f"the token of {name} no longer allows overrides")
