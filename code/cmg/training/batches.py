"""From a feature set to batches on the training device: the order of an epoch, and reading ahead of the step.

Features travel as they are stored (float16 as a rule) and become float32 on the device, which halves every copy.
"""

import math
import os
import queue
import shutil
import threading

import torch

from cmg.errors import UserError

SHARED = "/dev/shm"  # where loader processes leave what they have read
PIECE = 16 << 20  # bytes that one of them leaves there at a time
BLOCKS = 16  # blocks of one batch each that are held, and shuffled, together when features are read from disk


def epoch_order(n, batch_size, seed, epoch, rank=0, size=1, blocks=False, micro=1):
    """Batches of one epoch, a list of lists of rows: a pure function of (seed, epoch), so that a resumed run sees
    the same batches. The last incomplete batch is left out, unless it is the only one.

    rank, size, micro : every process takes its slice of each of the `micro` micro-batches that a batch is split into,
        all slices of a micro-batch of the same length. Clips are compared within their micro-batch, which is the same
        clips on any number of processes.
    blocks : shuffle so that a disk reads in sequence. `batch_size` neighbouring rows are a block; blocks come in random
        order, and rows are shuffled among `BLOCKS` blocks at a time.
    """
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    order = block_order(n, batch_size, generator) if blocks else torch.randperm(n, generator=generator)
    full = max(1, n // batch_size)
    batches = [order[i * batch_size : (i + 1) * batch_size] for i in range(full)]
    shares = [len(clips) // size for clips in batches[0].tensor_split(micro)]
    return [[row for clips, share in zip(batch.tensor_split(micro), shares)
             for row in clips[rank * share : (rank + 1) * share].tolist()] for batch in batches]


def block_order(n, block, generator):
    """All rows below n: blocks in random order (the incomplete last one stays last), rows shuffled within windows."""
    blocks = torch.arange(n).split(block)
    whole = n // block
    blocks = [blocks[i] for i in torch.randperm(whole, generator=generator)] + list(blocks[whole:])
    windows = [torch.cat(blocks[i : i + BLOCKS]) for i in range(0, len(blocks), BLOCKS)]
    return torch.cat([w[torch.randperm(len(w), generator=generator)] for w in windows])


def on_device(features, batches, device, workers=0):
    """Yield the batches in order, on `device`, features as float32; each is read while the one before is in use.

    features : FeatureSet; batches : lists of rows; workers : reading processes, where features are read from disk.
    """
    if features.cache == "disk":
        ready = windows(features, batches, device, workers)
    elif features.cache == "host" and device.type == "cuda":
        ready = ahead(copied(features, batches, device))
    else:
        ready = (features.stored(rows) for rows in batches)
    for batch in ready:
        if isinstance(batch, tuple):  # a copy to the card that may still be under way
            batch, done = batch
            torch.cuda.current_stream(device).wait_event(done)
            for value in batch.values():
                value.record_stream(torch.cuda.current_stream(device))
        yield {k: v.float() if v.is_floating_point() else v for k, v in batch.items() if k != "index"}


def copied(features, batches, device):
    """Batches from memory, in page-locked buffers, on their way to the card on a stream of their own."""
    torch.cuda.set_device(device)  # a new thread starts on the first card
    stream = torch.cuda.Stream(device)
    for rows in batches:
        batch = features.stored(rows, pinned=True)
        with torch.cuda.stream(stream):
            batch = {k: v.to(device, non_blocking=True) for k, v in batch.items()}
            yield batch, stream.record_event()


def ahead(items, depth=2):
    """The same items in the same order, made by a thread that stays up to `depth` ahead; its errors come through."""
    ready, stop, end = queue.Queue(depth), threading.Event(), object()

    def put(item):
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work():
        try:
            for item in items:
                put((item, None))
                if stop.is_set():
                    return
            put((end, None))
        except BaseException as error:  # whatever it is, the reader must hear of it
            put((end, error))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stop.set()
        thread.join()


def windows(features, batches, device, workers):
    """Batches from disk. The rows of `BLOCKS` batches are read together, in the order in which they lie in the file,
    by `workers` processes while the window before is in use; the batches are then picked from memory."""
    groups = [batches[i : i + BLOCKS] for i in range(0, len(batches), BLOCKS)]
    needed = [sorted({row for rows in group for row in rows}) for group in groups]
    if workers:
        ready = ahead(read_by(workers, features, needed, device), depth=1)
    else:
        ready = map(features.stored, needed)
    for window, group, rows in zip(ready, groups, needed):
        window = {k: v.to(device, non_blocking=True) for k, v in window.items()}
        position = {row: i for i, row in enumerate(rows)}
        for batch in group:
            index = torch.tensor([position[row] for row in batch]).to(device, non_blocking=True)
            yield {k: v.index_select(0, index) for k, v in window.items()}


def read_by(workers, features, needed, device):
    """An iterator over windows, lists of rows, that processes have read; page-locked for a card.

    They hand over pieces in shared memory, of which a container may have as little as 64 MB: at most half of what is
    free is in use at any time, whatever the size of a window.
    """
    one = features.stored(needed[0][:1])
    size = sum(value.nbytes for value in one.values())
    free = shutil.disk_usage(SHARED).free if os.path.isdir(SHARED) else math.inf
    step = int(min(PIECE, free / 2 / (workers + 1)) / size)
    if step == 0:
        raise UserError(f"{SHARED}: {free / 1e6:.1f} MB free; expected {2 * (workers + 1) * size / 1e6:.1f} MB for "
                        f"--workers {workers}, or --workers 0")
    pieces = [rows[i : i + step] for rows in needed for i in range(0, len(rows), step)]
    loader = torch.utils.data.DataLoader(
        Stored(features), batch_sampler=pieces, collate_fn=shared, num_workers=min(workers, len(pieces)),
        prefetch_factor=1,
        # A loader draws a seed when it is opened; from the global stream, a resumed run would draw once more.
        generator=torch.Generator(),
    )
    return joined(iter(loader), needed, one, device)


def joined(pieces, needed, one, device):
    """Windows from their pieces. one : a batch of one clip, for shapes and dtypes."""
    pinned = device.type == "cuda"
    if pinned:
        torch.cuda.set_device(device)  # a new thread starts on the first card
    for rows in needed:
        window = {k: torch.empty((len(rows), *v.shape[1:]), dtype=v.dtype, pin_memory=pinned) for k, v in one.items()}
        start = 0
        while start < len(rows):
            piece = next(pieces)
            end = start + len(piece["index"])
            for k, value in piece.items():
                window[k][start:end] = value
            start = end
        yield window


class Stored(torch.utils.data.Dataset):
    """A feature set whose batches keep the stored dtype, for a `DataLoader`."""

    def __init__(self, features):
        self.features = features

    def __len__(self):
        return len(self.features)

    def __getitems__(self, rows):
        return self.features.stored(rows)


def shared(batch):
    """Put a batch into shared memory here, where the loader hears of it if there is no room: it would not hear of it
    from the thread that sends batches, and wait for ever."""
    try:
        return {k: v.share_memory_() for k, v in batch.items()}
    except RuntimeError as error:
        raise UserError(f"{SHARED}: {str(error).splitlines()[0][:160]}; expected more room, or --workers 0") from None
