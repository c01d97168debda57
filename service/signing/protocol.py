"""What the service asks of its signer, and the two ways in which that fails.

The signer is a process of its own (`service.signing.signer`): whoever asks it names a row, never a
statement. It reads the row, checks it against its own settings and the registry, and makes the
statement itself, so that there is no call that signs what a caller wrote.
"""

from typing import Protocol

ASSESSMENT_TAG = "rlrisk.assessment_id"
"""Of the MLflow run that an assessment is published in: what the signer knows it by."""


class SignerUnavailableError(Exception):
    """The signer did not answer; ask again later, and publish nothing unsigned meanwhile."""


class SignerRefusedError(Exception):
    """The signer will not sign this.

    Attributes:
        code: A stable word, such as ``content_changed``.
        detail: A sentence; may hold a path of this machine.
        is_final: False where asking again may help (MLflow or the database was away).
    """

    def __init__(self, code: str, detail: str, *, is_final: bool = True) -> None:
        super().__init__(code, detail)
        self.code, self.detail, self.is_final = code, detail, is_final

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


class Signer(Protocol):
    """Signs by reference; what signs raises `SignerUnavailableError` or `SignerRefusedError`."""

    def is_there(self) -> bool:
        """Whether it takes questions; asks none."""

    def attest(self, assessment_id: str, run_id: str) -> str:
        """The envelope for the version that an assessment is about.

        Args:
            assessment_id: An assessment that succeeded; its report is read from the job table.
            run_id: The MLflow run that its report was published to.

        Returns:
            The DSSE envelope for the tag ``rlrisk.attestation``; the same one at every call.
        """

    def override(self, override_id: str) -> str:
        """The envelope of an override that was asked for and approved.

        Args:
            override_id: Row of the table of overrides. The signer reads who asked and who
                approved, whether their tokens still count, and hashes the content itself.

        Returns:
            The DSSE envelope for the tag ``rlrisk.override.<target>``.
        """
