"""The command in this process."""

from __future__ import annotations

import pytest
import torch

from fastdml import cli


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small only wait for each other on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def call(capsys):
    """Run the command: call("train", "--steps", "2") -> (exit code, stdout, stderr)."""

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            cli.main(list(words))
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return run
