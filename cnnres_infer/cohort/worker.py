"""A process that segments the cases which another one sends it: ``python -m ...worker``.

It reads settings and cases from standard input, and answers with outcomes; see
`cnnres_infer.cohort.messages`.
"""

import json
import os
import queue
import signal
import sys
import threading
from typing import Any, BinaryIO

from cnnres_infer.cohort.claims import release_all
from cnnres_infer.cohort.messages import answer, case_of, line, settings_of
from cnnres_infer.cohort.segment import Outcome, segment
from cnnres_infer.host.atomic import WRITING
from cnnres_infer.predictor import Predictor

# A write in progress may finish; a disk that takes longer is considered stuck.
_GRACE_S = 0.6
# Sent once, before the first answer for which the model was needed.
LOADED = "loaded"


def main() -> None:
    """Serve until the input ends."""
    # Of Ctrl-C, only the process that started this one hears.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = _own_output()
    requests: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, requests), daemon=True).start()
    settings = settings_of(requests.get())
    loaded: list[Predictor] = []

    def send(message: Any) -> None:
        answers.write(line(message))
        answers.flush()

    def predictor() -> Predictor:
        if not loaded:
            loaded.append(settings.load())
            send(LOADED)
        return loaded[0]

    while (request := requests.get()) is not None:
        try:
            outcome: Outcome | Exception = segment(case_of(request), settings, predictor)
        except Exception as error:
            outcome = error
        send(answer(outcome))


def _listen(stream: BinaryIO, requests: "queue.Queue[Any]") -> None:
    """Pass on what is sent, up to None; end the process if its parent has died before."""
    try:
        while True:
            # An empty line is none at all: the input has ended without saying so.
            request = json.loads(stream.readline())
            requests.put(request)
            if request is None:
                return
    except Exception:
        WRITING.acquire(timeout=_GRACE_S)
        release_all()
        os._exit(1)


def _own_output() -> BinaryIO:
    """A stream of its own for answers; what libraries print goes to standard error."""
    sys.stdout.flush()
    descriptor = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(descriptor, "wb")


if __name__ == "__main__":
    main()
