"""Several processes in one group of gloo, each of which checks something."""

import datetime
import os
import socket

import torch


def run(check, world, folder):
    """Call check(rank, world, folder) in so many processes; raises where one of them does."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    torch.multiprocessing.spawn(_in_group, args=(check, world, port, folder), nprocs=world)


def _in_group(rank, check, world, port, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=20),
    )
    check(rank, world, folder)
    # an orderly end waits for every rank, of which one may be gone
    os._exit(0)
