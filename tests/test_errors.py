import copy
import pickle
from collections.abc import Callable

import pytest

from cnnres_infer import errors
from cnnres_infer.codes import ErrorCode
from cnnres_infer.errors import CnnresError
from cnnres_infer.host.atomic import FolderLockedError


def subclasses(kind: type[CnnresError]) -> list[type[CnnresError]]:
    return [kind, *(each for below in kind.__subclasses__() for each in subclasses(below))]


MADE = [
    errors.OutputExistsError("/out/x.nii.gz"),
    errors.BackendUnavailableError("reason", "remedy"),
    errors.PrecisionUnavailableError("reason"),
    errors.LimitError("text", code=ErrorCode.LIMIT_TIME),
    FolderLockedError("text"),
    *(kind("text") for kind in subclasses(CnnresError)),
]


@pytest.mark.parametrize("error", MADE, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("again", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy])
def test_errors_survive_another_process(
    error: CnnresError, again: Callable[[CnnresError], CnnresError]
) -> None:
    error.add_note("in a worker")
    other = again(error)
    assert type(other) is type(error)
    assert (str(other), other.args) == (str(error), error.args)
    assert vars(other) == vars(error)
    assert other.code == error.code
