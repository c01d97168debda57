"""``rlrisk verify``: is this version, byte for byte, what was attested?"""

from tempfile import TemporaryDirectory

import click

from mlflow_rlrisk.commands.options import gate_policy_option, json_option
from mlflow_rlrisk.commands.output import OK, tell, tell_refusal
from mlflow_rlrisk.errors import PromotionRefusedError


@click.command()
@click.argument("model")
@click.option("--alias", default=None, help="Whose rules must be met. Default: that of MODEL.")
@gate_policy_option
@click.option("--out", default=None, help="Folder for artifacts that have to be downloaded.")
@json_option
def verify(
    model: str, alias: str | None, policy: str | None, out: str | None, as_json: bool
) -> int:
    """Hash MODEL in full and check signature, policy and expiry, as a trainer should.

    MODEL is models:/name@alias, models:/name/stage or models:/name/version. Exit code: 0 proven,
    10 block, 11 inconclusive.
    """
    from mlflow_rlrisk.gate.trainer import verify as verify_in_full

    try:
        with TemporaryDirectory(prefix="rlrisk-verify-") as private:
            folder = verify_in_full(model, alias=alias, policy=policy, dst_path=out or private)
            stays = not folder.is_relative_to(private)
    except PromotionRefusedError as error:
        return tell_refusal(error, model, as_json=as_json, path=None)
    proven = {"model": model, "outcome": "promote", "reason": "proven"}
    where = f": {folder}" if stays else " (--out keeps what was downloaded)"
    tell(
        {**proven, "path": str(folder) if stays else None},
        f"{model} is what was attested{where}",
        as_json=as_json,
    )
    return OK
