"""What is said when memory, shared memory, open files or processes run out, by whichever library notices it."""

import errno
import traceback
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

MEMORY = ("memory falls short; give a smaller --batch_size (of inference --inference_batch_size), fewer "
          "--n_threads, or no --memory_gb")
GPU = ("the GPU has too little memory for this; give a smaller --batch_size (of inference --inference_batch_size), or "
       "--no_cuda")
SHARED = ("/dev/shm, the shared memory in which loader processes hand over clips, is full; give --n_threads 0 or a "
          "smaller --batch_size, or more of it to the container (docker run --shm-size=8g)")
FILES = "too many files are open; raise the limit (ulimit -n 4096), or give fewer --n_threads"
THREADS = "the system starts no more processes or threads for this user; give fewer --n_threads or --n_jobs"
LOADER = ("a loader process ended abruptly, as it does when memory falls short; give fewer --n_threads, 0 for none, or "
          "a smaller --batch_size; checkpoints that are written are whole")
HANDED = ("a loader process could not hand over a batch, as when too many files are open (ulimit -n) or memory falls "
          "short; give fewer --n_threads, 0 for none")
POOL = ("a process ended abruptly, for want of memory perhaps; start again with a smaller --n_jobs or --n_threads, "
        "what is finished is kept")

# Words of torch, its loader and its allocators; the first that fits decides.
_WORDS = (
    (SHARED, ("bus error", "shared memory", "No space left on device", "unable to write to file </torch",
              "unable to resize file </torch", "unable to mmap", "unable to allocate shared memory")),
    (FILES, ("Too many open files", "received 0 items of ancdata")),
    (THREADS, ("can't start new thread", "Resource temporarily unavailable", "Thread creation failed")),
    (LOADER, ("DataLoader worker (pid", "is killed by signal", "exited unexpectedly")),
    (MEMORY, ("can't allocate memory", "not enough memory", "Cannot allocate memory", "bad_alloc")),
)
_ERRNO = {errno.EMFILE: FILES, errno.ENFILE: FILES, errno.ENOMEM: MEMORY, errno.EAGAIN: THREADS}


def shortage(error: BaseException) -> str | None:
    """The sentence on an error that tells of a shortage of something; None on any other."""
    if isinstance(error, BrokenProcessPool):
        return POOL
    if isinstance(error, MemoryError):
        return MEMORY
    if isinstance(error, EOFError | ConnectionError) and _between_processes(error):
        return HANDED
    if isinstance(error, OSError):
        return _ERRNO.get(error.errno)
    if isinstance(error, RuntimeError):
        if type(error).__name__ == "OutOfMemoryError":  # of torch, which not every script imports
            return GPU
        text = str(error).lower()
        return next((sentence for sentence, words in _WORDS if any(word.lower() in text for word in words)), None)
    return None


def _between_processes(error: BaseException) -> bool:
    """Whether an error comes from the exchange of data with another process."""
    return any("multiprocessing" in Path(frame.f_code.co_filename).parts
               for frame, _ in traceback.walk_tb(error.__traceback__))
