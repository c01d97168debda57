"""Loads a code judge behind the walls of the sampling process; ends with `FAULT` where it cannot.

Imported is nothing that starts threads: the walls are put up by a process that has one.
"""

import json
import sys

FAULT = 3


def main() -> int:
    """Arguments: those of `service.sampling.walls.raise_walls` as JSON, and the verifier."""
    from service.sampling.walls import WallError, raise_walls

    try:
        raise_walls(**json.loads(sys.argv[1]))
    except WallError as error:
        print(error, file=sys.stderr)
        return FAULT
    from mlflow_rlrisk import RLRiskError
    from mlflow_rlrisk.verifiers import load_verifier

    try:
        load_verifier(sys.argv[2])
    except RLRiskError as error:
        print(error, file=sys.stderr)
        return FAULT
    return 0


if __name__ == "__main__":
    sys.exit(main())
