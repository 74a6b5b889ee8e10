"""SoftTriple with its centres divided over the ranks: torchrun --nproc-per-node 2 examples/sharded_centers.py

Trains a small embedding of made-up data for a few seconds, on GPUs where there are any.
"""

from __future__ import annotations

import argparse
import gc
import os

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastdml.distributed import ShardedCenters, full_optimizer_state_dict, full_state_dict, shard_centers
from fastdml.losses import SoftTripleLoss

INPUTS, WIDTH, BATCH = 64, 32, 128
MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description="Train an embedding with sharded SoftTriple centres.")
    parser.add_argument("--classes", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--checkpoint", help="where rank 0 writes the state of one process, at the end")
    train(parser.parse_args())
    # what still holds the group goes first: a thread of it that outlives the interpreter aborts the process
    gc.collect()
    dist.destroy_process_group()


def train(options: argparse.Namespace) -> None:
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    rank = dist.get_rank()

    torch.manual_seed(0)  # the same network and loss on every rank
    network = DistributedDataParallel(make_network().to(device))
    # on the meta device: no rank ever holds the centres of all classes
    with torch.device("meta"):
        whole = SoftTripleLoss(options.classes, WIDTH, centers_per_class=5, tau=0.2)
    loss = shard_centers(whole, data_parallel=True).to(device)
    optimizer = torch.optim.Adam(
        [{"params": network.parameters(), "lr": 1e-3}, {"params": loss.parameters(), "lr": 1e-2}]
    )

    shared = torch.randn(options.classes, INPUTS)  # what the samples of a class have in common
    torch.manual_seed(1 + rank)  # every rank its own batches
    for step in range(options.steps):
        inputs, labels = make_batch(shared)
        value = loss(network(inputs.to(device)), labels.to(device))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if rank == 0 and (step % 20 == 0 or step == options.steps - 1):
            print(f"step {step:4d}  loss {value.item():7.3f}", flush=True)  # of the global batch

    report(loss, optimizer)
    if options.checkpoint:
        state = {
            "network": network.module.state_dict(),
            "loss": full_state_dict(loss),
            "optimizer": full_optimizer_state_dict(loss, optimizer),
        }
        if rank == 0:
            torch.save(state, options.checkpoint)


def make_network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(INPUTS, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, WIDTH)
    )


def make_batch(shared: Tensor) -> tuple[Tensor, Tensor]:
    """[B, INPUTS] samples near what their class shares, and their labels [B]."""
    labels = torch.randint(len(shared), (BATCH,))
    return shared[labels] + 0.5 * torch.randn(BATCH, INPUTS), labels


def report(loss: ShardedCenters, optimizer: torch.optim.Optimizer) -> None:
    """Prints, rank by rank, what each holds of the centres."""
    moments = sum(value.nbytes for value in optimizer.state[loss.centers].values())
    memory = (2 * loss.centers.nbytes + moments) / MIB
    held = (
        f"rank {loss.rank}: classes {loss.classes.start} to {loss.classes.stop - 1} of {loss.num_classes}, "
    )
    held += f"{loss.centers.numel() // WIDTH} centres, {memory:.1f} MiB with gradient and moments"
    if loss.centers.is_cuda:
        held += f", at most {torch.cuda.max_memory_allocated() / MIB:.1f} MiB in all"
    for rank in range(loss.ranks):
        if rank == loss.rank:
            print(held, flush=True)
        dist.barrier()


if __name__ == "__main__":
    main()
