"""The command lines, one module each: `python -m dits_lib.commands.<name> --help`."""

import sys
from types import TracebackType


def _in_one_line(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """What ends a command while it is still being imported is one line too: Ctrl-C, or an
    environment variable or defaults that cannot be used."""
    if issubclass(kind, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
    elif kind.__name__ == "ParamsError":
        print(error, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if sys.excepthook is sys.__excepthook__:
    sys.excepthook = _in_one_line
