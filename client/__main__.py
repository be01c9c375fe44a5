"""`python -m client`: a chat in the terminal; `python -m client "question"`: one answer."""

import sys

# Reached with any Python, and without the kit's packages, too: nothing but the standard library before this.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit("python -m client needs Python 3.11 or newer: run `make setup`, then `.venv/bin/python -m client`.")
try:
    from client.chat import main

    status = main(sys.argv[1:])
except ImportError as error:
    sys.exit(
        f"{sys.executable} lacks what the client needs ({error}): run `make setup`, then `.venv/bin/python -m client`."
    )
except KeyboardInterrupt:
    status = 130
except Exception as error:
    from client.terminal import sanitize_line

    sys.exit(f"python -m client failed by a mistake of its own: {type(error).__name__}: {sanitize_line(str(error))}")
sys.exit(status)
