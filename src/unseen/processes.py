"""Several processes, started by torchrun or by SLURM's srun, that share one work.

Item i of a work is done by process i mod N, and all of them get what was made of every item, in
order. So what is counted or printed of it is the same to the bit in any number of processes.
"""

import atexit
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

from unseen.errors import InputError
from unseen.progress import track

# SLURM_NTASKS is also set in a batch script, where one process runs and no others will join it
_NAMES = {
    "WORLD_SIZE": ("RANK", "LOCAL_RANK"),
    "SLURM_STEP_NUM_TASKS": ("SLURM_PROCID", "SLURM_LOCALID"),
}

_PATIENCE = timedelta(days=365)  # some have more to do than others; one that died is noticed


@dataclass(frozen=True)
class Processes:
    """How many processes there are, and which of them this is.

    Args:
        rank: number of this one, from 0 on.
        size: how many there are, on all machines.
        local_rank: number of this one on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def started(cls) -> "Processes":
        """Return what torchrun or srun says in the environment; one process if neither does."""
        for size, (rank, local_rank) in _NAMES.items():
            if size in os.environ:
                numbers = (int(os.environ.get(name, "0")) for name in (rank, size, local_rank))
                return cls(*numbers)
        return cls()

    def take_gpu(self) -> None:
        """Of several GPUs, let ``cuda`` mean this process's own from now on."""
        import torch

        if self.size > 1 and torch.cuda.is_available():
            torch.cuda.set_device(self.local_rank % torch.cuda.device_count())

    def share(self, count: int, do: Callable[[int], Any], description: str) -> Iterator[Any]:
        """Do this process's share of items, then yield what came of all of them, in order.

        A single process yields each at once.

        Args:
            count: how many items there are.
            do: called with an item's number; what it returns must be as JSON takes it.
            description: what is being done, for a progress bar.

        Raises:
            InputError: the processes do not find each other, or another one ended.
        """
        if self.size == 1:
            yield from map(do, track(range(count), description))
            return
        _group(self.rank, self.size)  # before the work: who is missing is missed now
        mine = range(self.rank, count, self.size)
        done = [json.dumps(do(i)) for i in (mine if self.rank else track(mine, description))]
        parts = self.gather(done)
        for i in range(count):
            yield json.loads(parts[i % self.size][i // self.size])

    def gather(self, part: Any) -> list[Any]:
        """Return, in every process, what each one gave.

        Raises:
            InputError: the processes do not find each other, or another one ended.
        """
        if self.size == 1:
            return [part]
        import torch.distributed as dist

        parts = [None] * self.size
        group = _group(self.rank, self.size)
        try:
            dist.all_gather_object(parts, part, group=group)
        except RuntimeError:  # the connection is closed
            raise InputError(
                "another process ended before its share was done: see what it said"
            ) from None
        return parts


ALONE = Processes()


def leave_at_exit() -> None:
    """Leave the group of processes before the interpreter ends: gloo's threads would abort it."""
    atexit.register(_leave)


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


@cache
def _group(rank: int, size: int) -> Any:
    """Return the group of all processes, joined when it is first asked for."""
    import torch.distributed as dist

    try:
        if not dist.is_initialized():
            dist.init_process_group("gloo", rank=rank, world_size=size)
            leave_at_exit()
        return dist.new_group(backend="gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"{size} processes were announced and do not find each other: start them with "
            "torchrun, or with srun and the same MASTER_ADDR and MASTER_PORT for all "
            f"({str(error).splitlines()[0]})"
        ) from None
