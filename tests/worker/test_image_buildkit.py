"""The image's Dockerfile, read by BuildKit's own parser, which is what `docker build` and RunPod's Hub read it with."""

from __future__ import annotations

import dockerfile  # type: ignore[import-not-found]

from tests.support.worker import ROOT
from tests.worker.test_image import DOCKERFILE, instructions

# What `RUN --mount` takes since there are mounts: no newer front end has to be pulled for it.
MOUNTS = {"bind": {"type", "from", "source", "target"}, "secret": {"type", "id"}}
FOUND = dockerfile.parse_file(str(ROOT / ".runpod" / "Dockerfile"))


def test_the_hubs_dockerfile_lies_there_itself():
    for name in ("Dockerfile", "Dockerfile.dockerignore"):  # BuildKit takes them together, and follows no link
        assert not (ROOT / ".runpod" / name).is_symlink()
        assert (ROOT / ".runpod" / name).read_text() == (DOCKERFILE.parent / name).read_text()


def test_it_means_to_buildkit_what_it_means_to_these_tests():
    ours = [(name, rest.split()) for name, rest in instructions()]
    assert ours == [(command.original.split()[0], command.original.split()[1:]) for command in FOUND]
    assert {command.cmd.lower() for command in FOUND} <= set(dockerfile.all_cmds())


def test_every_mount_is_of_a_kind_that_every_builder_knows():
    mounts = [flag.removeprefix("--mount=") for command in FOUND for flag in command.flags if "--mount" in flag]
    assert len(mounts) == 2
    for mount in mounts:
        words = dict(word.split("=") for word in mount.split(","))
        assert set(words) <= MOUNTS[words["type"]]
    stages = [command.value[-1] for command in FOUND if command.cmd == "FROM" and "AS" in command.value]
    assert [mount.split("from=")[1].split(",")[0] for mount in mounts if "from=" in mount] == stages
