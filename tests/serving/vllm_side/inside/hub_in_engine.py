"""Run by the engine's own Python: say what Hugging Face's library makes of environments.

Reads a JSON list of environments from standard input; prints a JSON list of what the library finds in each.
"""

import importlib
import json
import os
import sys

from huggingface_hub import constants
from huggingface_hub.utils import _auth

found = []
for environment in json.load(sys.stdin):
    os.environ.clear()
    os.environ.update(environment)
    importlib.reload(constants)
    importlib.reload(_auth)
    places = (constants.HF_HUB_CACHE, constants.ENDPOINT, constants.HF_TOKEN_PATH)
    found.append([*places, constants.is_offline_mode(), _auth.get_token()])
print(json.dumps(found))
