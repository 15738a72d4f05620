"""Training steps as CUDA graphs: captured once for each size of batch, then replayed by a single launch.

Written by PyTorch's rules for the capture of whole steps, but not yet run on a GPU; hence off by default.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from tuition.errors import UserError

Step = Callable[..., dict[str, Tensor]]

WARM_UP = 3  # steps of each size that run as they are, for the optimizer and libraries to set up what they keep


class Graphs:
    """Calls `step(rows, views, fetched)` by graph. All steps count, also those that warm up; capturing runs none.

    A graph repeats what the device did, on the same memory. So `step` must take nothing from the host that changes
    from step to step (the learning rate is a tensor, batches are not mixed), and never wait for the device.
    """

    def __init__(self, step: Step) -> None:
        self.step = step
        self.forget()

    def forget(self) -> None:
        """Begin anew, because tensors that a step works on were replaced, such as the optimizer's state."""
        self.seen: Counter[int] = Counter()
        self.graphs: dict[int, tuple[torch.cuda.CUDAGraph, list[Tensor | None], dict[str, Tensor]]] = {}

    def __call__(self, rows: Tensor, *others: Tensor | None) -> dict[str, Tensor]:
        """The terms of the step on these rows (b,), with the rest of what was drawn.

        Raises:
            UserError: the step cannot be captured.
        """
        size = len(rows)
        if size not in self.graphs:
            self.seen[size] += 1
            if self.seen[size] <= WARM_UP:
                return self._aside(rows, *others)
            self.graphs[size] = self._captured(rows, *others)
        graph, inputs, terms = self.graphs[size]
        for held, given in zip(inputs, (rows, *others), strict=True):
            if held is not None and given is not None:
                held.copy_(given)
        graph.replay()
        return {name: value.clone() for name, value in terms.items()}

    def _aside(self, *drawn: Tensor | None) -> dict[str, Tensor]:
        """On another stream than the default, as capture demands of the steps before it."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            terms = self.step(*drawn)
        torch.cuda.current_stream().wait_stream(stream)
        return terms

    def _captured(self, *drawn: Tensor | None) -> tuple[torch.cuda.CUDAGraph, list[Tensor | None], dict[str, Tensor]]:
        inputs = [None if given is None else given.clone() for given in drawn]
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                terms = self.step(*inputs)
        except RuntimeError as error:
            first = str(error).splitlines()[0].rstrip(".")
            raise UserError(f"this run cannot use CUDA graphs ({first}); use graphs: false.") from error
        return graph, inputs, terms
