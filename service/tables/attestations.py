"""Envelopes that the signer made, one an assessment: asked again, it gives the same one."""

import time

import sqlalchemy as sa

from service.tables.database import METADATA, read, write

_TABLE = sa.Table(
    "rlrisk_attestations",
    METADATA,
    sa.Column("assessment_id", sa.String(36), primary_key=True),
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("envelope", sa.Text, nullable=False),
    sa.Column("signed_at", sa.Float, nullable=False),
)


class AttestationTable:
    """What was signed. The envelope proves itself; a row that was tampered with proves nothing."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def find(self, assessment_id: str) -> tuple[str, str] | None:
        """Run and envelope of an assessment."""
        wanted = sa.select(_TABLE.c.run_id, _TABLE.c.envelope).where(
            _TABLE.c.assessment_id == assessment_id
        )
        with read(self._engine) as connection:
            row = connection.execute(wanted).one_or_none()
        return None if row is None else (str(row.run_id), str(row.envelope))

    def keep(self, assessment_id: str, run_id: str, envelope: str) -> str:
        """Keep an envelope unless there is one; returns the one that is kept."""
        values = {
            "assessment_id": assessment_id,
            "run_id": run_id,
            "envelope": envelope,
            "signed_at": time.time(),
        }
        try:
            with write(self._engine) as connection:
                connection.execute(sa.insert(_TABLE).values(values))
        except sa.exc.IntegrityError:  # another signer was faster
            found = self.find(assessment_id)
            assert found is not None
            return found[1]
        return envelope
