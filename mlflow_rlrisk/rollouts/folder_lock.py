"""One writer for a folder of rollouts.

Two assessments that write into one folder would grade under each other's manifest. The lock is
the operating system's: a killed process leaves none behind.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mlflow_rlrisk.errors import RolloutStoreError

LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for the length of the ``with`` block; it is made where it is missing.

    A block that puts nothing into the folder leaves nothing that was made for it. Systems and file
    systems without such locks go on without.

    Raises:
        RolloutStoreError: Another process writes into it, or it cannot be made.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    made = [each for each in (folder / LOCK, folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / LOCK).open("w")
    except OSError as error:
        raise RolloutStoreError(f"{folder} cannot be written: {error.strerror}") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RolloutStoreError(
                f"another assessment is writing into {folder}; wait for it or choose another folder"
            ) from error
        except OSError:  # some network file systems
            pass
        try:
            yield
        finally:
            _take_back(folder, made)


def _take_back(folder: Path, made: Sequence[Path]) -> None:
    """Remove what was made, the innermost first, where there is nothing but the lock."""
    with suppress(OSError):  # a neighbour's by now, or gone
        if all(each.name == LOCK for each in folder.iterdir()):
            for each in made:
                each.rmdir() if each.is_dir() else each.unlink()
