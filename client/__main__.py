"""`python -m client`: a chat in the terminal; `python -m client "question"`: one answer."""

import sys

from client.chat import main

sys.exit(main(sys.argv[1:]))
