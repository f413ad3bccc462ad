"""Batches that are drawn while the network computes: in the same process, or in several beside it."""

from collections.abc import Callable, Iterator

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info


class Batches(IterableDataset):
    """The batches of the numbers first, first + 1, …, below `end` if one is given; each depends on its number alone."""

    def __init__(self, make: Callable[[int], torch.Tensor], first: int, end: int | None):
        self.make, self.first, self.end = make, first, end

    def __iter__(self) -> Iterator[torch.Tensor]:
        """This process's share of the batches."""
        worker = get_worker_info()
        number = self.first + (worker.id if worker else 0)
        while self.end is None or number < self.end:
            yield self.make(number)
            number += worker.num_workers if worker else 1


def drawn(
    make: Callable[[int], torch.Tensor], first: int, workers: int, end: int | None = None
) -> Iterator[torch.Tensor]:
    """Batches in the order of their numbers, whatever the number of workers; with 0 they are drawn in this process."""
    return iter(DataLoader(Batches(make, first, end), batch_size=None, num_workers=workers))
