"""One platform and one worker for all tests of a module that do not end it."""

from importlib.util import find_spec

import pytest_asyncio

from tests.support.worker import platform_and_worker

# BuildKit's parser comes with Go inside, and not for every kind of machine (pyproject.toml).
collect_ignore = [] if find_spec("dockerfile") else ["test_image_buildkit.py"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory):
    """Yield an emulated platform and a worker that takes its jobs."""
    async with platform_and_worker(tmp_path_factory.mktemp("worker"), SERVE_API_KEY="a-key-for-vllm") as both:
        yield both
