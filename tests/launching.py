"""Trainings in processes of their own, as a user and a launcher start them."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Started:
    """Processes that train together."""

    processes: list[subprocess.Popen[str]]

    def kill(self) -> None:
        """End them as a machine that fails would, with no time to do anything."""
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> list[tuple[int, str]]:
        """Return the exit codes, and what was written to standard error."""
        try:
            told = [process.communicate(timeout=600)[1] for process in self.processes]
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        codes = [process.returncode for process in self.processes]
        return list(zip(codes, told, strict=True))

    @property
    def running(self) -> bool:
        """Whether any still works."""
        return any(process.poll() is None for process in self.processes)


def launch(
    clip: Path,
    out: Path,
    *words: str,
    processes: int = 1,
    nodes: int = 1,
    recipe: str = "zegclip-miniature-inductive",
) -> Started:
    """Start ``unseen train`` on the micro world in some processes.

    Args:
        clip: folder of a CLIP.
        out: folder for the model.
        words: more of the command.
        processes: of a node.
        nodes: machines, as the processes believe.
        recipe: what is trained.
    """
    command = [
        *(sys.executable, "-m", "unseen", "train", recipe, f"clip={clip}", "data.name=micro"),
        *("batch_size=4", "warmup=1", "short_side=48", "window=48", "stride=40"),
        *("options.prompts=2", "options.heads=4", "--device", "cpu", "--out", str(out), *words),
    ]
    return Started(
        [
            subprocess.Popen(
                command,
                env=os.environ | {"OMP_NUM_THREADS": "1"} | place,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            for place in places(processes, nodes)
        ]
    )


def places(processes: int, nodes: int) -> Sequence[dict[str, str]]:
    """Return what ``torchrun`` tells every process of its place."""
    if processes * nodes == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": str(processes * nodes),
            "LOCAL_WORLD_SIZE": str(processes),
            "RANK": str(node * processes + process),
            "LOCAL_RANK": str(process),
            "GROUP_RANK": str(node),
            "TORCHELASTIC_RUN_ID": "test",
        }
        for node in range(nodes)
        for process in range(processes)
    ]
