"""Training in several processes started by torchrun: their ranks, what they exchange, and how they end together."""

import contextlib
import datetime
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TextIO

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.parallel import DistributedDataParallel

from machine.shortage import shortage
from training.pulse import Pulse

# How long a process may give no sign of life; one that works gives them, see `Pulse`.
PATIENCE = datetime.timedelta(hours=1)
# How long processes wait for each other's data: for ever, as far as 31 bits of milliseconds go, since one of them may
# place prototypes or draw pictures for hours.
FOR_EVER = datetime.timedelta(days=24)
LOST = "{}, so this one ends too; the newest checkpoint is complete: resume it with --resume_path auto"


@dataclass(frozen=True)
class World:
    """The processes of a run; in a single process the methods return their arguments.

    All processes must call the methods that exchange data, in the same order.

    Args:
        rank: number of this process; process 0 writes files. size: number of processes.
        local_rank: number of this process on its machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def share(self, n: int) -> range:
        """This process's share of n items: rank, rank + size, ..."""
        return range(self.rank, n, self.size)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return self.total(int(flag)) > 0

    def total(self, number: int) -> int:
        """The sum of the processes' integers."""
        if self.size == 1:
            return number
        total = torch.tensor(number)
        dist.all_reduce(total)
        return int(total)

    def sum_(self, tensor: Tensor) -> None:
        """Replace a tensor by the sum over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)

    def objects(self, value: object) -> list:
        """Every process's value, by rank."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def stack(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes, which have the same shape: (...) -> (size, ...)."""
        if self.size == 1:
            return tensor[None]
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.stack(parts)

    def gather(self, shard: Tensor) -> Tensor:
        """All rows of a batch in the batch's order, of which each process has its `share`.

        Every process then computes the same loss of the whole batch. Gradients through the gathered rows are multiplied
        by `size`, so that the mean over processes that DistributedDataParallel takes is the gradient of this loss, as
        it is for gradients that do not go through them.

        Args:
            shard: (b, ...), this process's rows.
        Returns:
            (B, ...), differentiable in this process's rows, with gradients `size` times as large.
        """
        if self.size == 1:
            return shard
        n = self.total(len(shard))
        padding = shard.new_zeros(-(-n // self.size) - len(shard), *shard.shape[1:])
        own = shard.view_as(shard)
        if own.requires_grad:
            own.register_hook(lambda gradient: gradient * self.size)
        own = torch.cat([own, padding])
        parts = list(self.stack(own.detach()))
        parts[self.rank] = own
        return torch.stack(parts, 1).flatten(0, 1)[:n]  # the padding is at the end

    def collect(self, shard: Tensor, n: int) -> Tensor:
        """As `gather`, for rows that should not be in memory twice: (b, ...) -> (n, ...), on the CPU, no gradient."""
        if self.size == 1:
            return shard
        whole = torch.empty(n, *shard.shape[1:], dtype=shard.dtype)
        for rank in range(self.size):
            part = shard.contiguous() if rank == self.rank else torch.empty_like(whole[rank::self.size])
            dist.broadcast(part, rank)
            whole[rank::self.size] = part
        return whole

    def rows(self, own: Tensor) -> Tensor:
        """The rows of all processes, concatenated by rank: (n, ...) of this process -> (N, ...), no gradient."""
        if self.size == 1:
            return own
        counts = self.objects(len(own))
        padded = torch.cat([own, own.new_zeros(max(counts) - len(own), *own.shape[1:])])
        return torch.cat([part[:n] for part, n in zip(self.stack(padded), counts, strict=True)])

    def merge(self, rows: Tensor, mine: Tensor) -> Tensor:
        """Combine rows (P, ...) of which each belongs to one process; mine (P,) bool, those of this process."""
        if self.size == 1:
            return rows
        mine = mine.to(rows.device).view(-1, *[1] * (rows.dim() - 1))
        merged = torch.where(mine, rows, torch.zeros_like(rows))
        dist.all_reduce(merged)
        return merged

    def align(self, module: nn.Module) -> None:
        """Copy the main process's parameters and buffers to all processes."""
        if self.size > 1:
            for value in module.state_dict().values():
                contiguous = value.detach().contiguous()
                dist.broadcast(contiguous, 0)
                value.copy_(contiguous)

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the body in the main process first, then in the others, which can read what it has written."""
        if self.size > 1 and not self.is_main:
            dist.barrier()
        yield
        if self.size > 1 and self.is_main:
            dist.barrier()

    def device(self, device: torch.device, asked: str | None) -> torch.device:
        """The device of this process: its own GPU where GPUs are used.

        Args:
            device: of a single process. asked: the value of --device.
        Raises:
            ValueError: where there are too few GPUs, or --device names one by number.
        """
        if self.size == 1 or device.type != "cuda":
            return device
        if asked is not None and ":" in asked:
            raise ValueError(f"--device {asked}: with several processes each takes its own GPU; give --device cuda")
        if self.local_rank >= torch.cuda.device_count():
            raise ValueError(f"torchrun started more processes on this machine than it has GPUs "
                             f"({torch.cuda.device_count()}); give a smaller --nproc_per_node")
        torch.cuda.set_device(self.local_rank)
        return torch.device("cuda", self.local_rank)


@contextlib.contextmanager
def joined() -> Iterator[World]:
    """Join the processes that torchrun started, for the body of this context.

    Only the main process prints. When a process fails, the first one to notice reports it and the others exit silently.

    Raises:
        ConnectionError: where another process has died.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield World()
        return
    from torch.distributed.rendezvous import rendezvous  # not `dist.rendezvous`, which is the function
    store, rank, size = next(iter(rendezvous("env://")))
    # torchrun uses one store for all attempts, which holds addresses of processes of earlier attempts
    store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)} of {size}", store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        # about axes of length one, whose strides do not matter
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        with Pulse(store, rank, size, PATIENCE.total_seconds(), partial(_end_without, store=store, stderr=sys.stderr)):
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=FOR_EVER)
            with contextlib.nullcontext() if rank == 0 else _quiet():
                yield World(rank, size, int(os.environ.get("LOCAL_RANK", rank)))
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        lost = isinstance(error, RuntimeError) and _is_lost_process(error)
        if isinstance(error, RuntimeError) and not lost and shortage(error) is None:
            raise
        if not _is_first_to_report(store):
            sys.exit(2)
        if lost:
            raise ConnectionError(LOST.format("another process of this run has died")).with_traceback(
                error.__traceback__) from None
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _is_lost_process(error: RuntimeError) -> bool:
    """Whether an error means that another process could not be reached; gloo's errors name its source files."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def _end_without(rank: int, *, store: dist.Store, stderr: TextIO) -> None:
    """End this process, which may be waiting for one that gives no sign of life."""
    if _is_first_to_report(store.clone()):
        silence = LOST.format(f"process {rank} of this run has given no sign of life for {PATIENCE}")
        print(f"error: {silence}", file=stderr, flush=True)
    os._exit(2)


def _is_first_to_report(store: dist.Store) -> bool:
    try:
        return store.add("spoken", 1) == 1
    except RuntimeError:  # the process that served the store has died
        return True


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Print warnings only: a video that cannot be read may be in this process's share alone."""
    stderr = sys.stderr

    def show(message, category, filename, lineno, file=None, line=None):
        stderr.write(warnings.formatwarning(message, category, filename, lineno, line))

    with (open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere),
          warnings.catch_warnings()):
        warnings.showwarning = show
        yield


class Together(nn.Module):
    """A step's forward pass as a module for DistributedDataParallel; the parameters are those of `model`."""

    def __init__(self, model: nn.Module, forward: Callable) -> None:
        super().__init__()
        self.model, self._forward = model, forward

    def forward(self, batch: dict) -> Tensor:
        return self._forward(batch)

    def parallel(self) -> DistributedDataParallel:
        """The module in DistributedDataParallel, for the parameters that require gradients now."""
        parallel = DistributedDataParallel(self, broadcast_buffers=False)
        if next(self.parameters()).device.type == "cpu":
            parallel.register_comm_hook(None, _mean_one_by_one)
        return parallel


def _mean_one_by_one(_: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """Average the gradients of a bucket one by one.

    After its first backward pass DDP rearranges its buckets, and a gradient's position in a bucket decides the order in
    which more than two are summed. On the CPU a resumed run must equal an uninterrupted one to the bit.
    """
    buffer = bucket.buffer().div_(dist.get_world_size())
    for gradient in buffer.split([gradient.numel() for gradient in bucket.gradients()]):
        dist.all_reduce(gradient)
    done = torch.futures.Future()
    done.set_result(buffer)
    return done


class BatchNormOverProcesses(nn.BatchNorm3d):
    """Batch-norm over the clips of all processes on the CPU, where PyTorch's SyncBatchNorm does not work.

    Inputs are (B, C, ...) with any number of axes.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        """Accept any number of axes: 2D convolutions have four."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        axes, shape, dtype = (0, *range(2, x.dim())), (1, -1, *[1] * (x.dim() - 2)), x.dtype
        x = x.float()
        n = x.new_tensor(x.numel() // x.shape[1])
        dist.all_reduce(n)
        mean = all_reduce(x.sum(axes)) / n  # (C,)
        centred = x - mean.view(shape)
        variance = all_reduce(centred.square().sum(axes)) / n  # (C,)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()  # (C,)
        return (centred * scale.view(shape) + self.bias.view(shape)).to(dtype)


def synchronise_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with batch-norm over the clips of all processes; parameters and their names do not change."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            module.__class__ = BatchNormOverProcesses
    return model
