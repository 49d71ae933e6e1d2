"""LightningModules of users: networks of graphs, whose batches have rows of nodes and edges."""

from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from user_samples import CLASSES, classified


class Graphs:
    """Several graphs as one graph, in a class that the package does not know."""

    def __init__(self, x: Tensor, edge_index: Tensor, batch: Tensor, y: Tensor) -> None:
        self.x, self.edge_index, self.batch, self.y = x, edge_index, batch, y

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: Any) -> "Graphs":
        return Graphs(*(part.to(device) for part in vars(self).values()))

    @classmethod
    def collate(cls, graphs: list[tuple[Tensor, Tensor, Tensor]]) -> "Graphs":
        nodes = torch.tensor([len(x) for x, _, _ in graphs])
        offsets = (nodes.cumsum(0) - nodes).tolist()
        edges = [edges + offset for (_, edges, _), offset in zip(graphs, offsets, strict=True)]
        return cls(
            torch.cat([x for x, _, _ in graphs]),
            torch.cat(edges, 1),
            torch.arange(len(graphs)).repeat_interleave(nodes),
            torch.stack([y for _, _, y in graphs]),
        )


class GraphConvolution(nn.Module):
    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.own, self.neighbours = nn.Linear(fan_in, fan_out), nn.Linear(fan_in, fan_out)

    def forward(self, x, edge_index):
        source, target = edge_index
        gathered = torch.zeros_like(x).index_add(0, target, x[source])
        return self.own(x) + self.neighbours(gathered)


class GraphNetwork(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = GraphConvolution(2, 6), GraphConvolution(6, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, graphs):
        x = F.relu(self.conv1(graphs.x, graphs.edge_index))
        x = F.relu(self.conv2(x, graphs.edge_index))
        pooled = torch.zeros(len(graphs), 6, dtype=x.dtype, device=x.device)
        return self.head(pooled.index_add(0, graphs.batch, x))

    def training_step(self, graphs, batch_idx):
        return F.cross_entropy(self(graphs), graphs.y)

    def validation_step(self, graphs, batch_idx):
        self.log("val_loss", F.cross_entropy(self(graphs), graphs.y), batch_size=len(graphs))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class NodesAndEdges(GraphNetwork):
    """The same network, called with tensors that have a row for each node or edge."""

    def forward(self, x, edge_index, batch):
        return super().forward(Graphs(x, edge_index, batch, batch.unique()))

    def training_step(self, graphs, batch_idx):
        return F.cross_entropy(self(graphs.x, graphs.edge_index, graphs.batch), graphs.y)

    def validation_step(self, graphs, batch_idx):
        logits = self(graphs.x, graphs.edge_index, graphs.batch)
        self.log("val_loss", F.cross_entropy(logits, graphs.y), batch_size=len(graphs))


def nodes(graphs: Graphs) -> Tensor:
    return graphs.x.unflatten(0, (len(graphs), -1))


def on_rings(module: Any, x: Tensor) -> Tensor:
    """Call the module with graphs that are rings."""
    graphs, count = x.shape[:2]
    offsets = count * torch.arange(graphs)
    edges = (ring(count)[:, None] + offsets[:, None]).flatten(1)
    return module(
        Graphs(x.flatten(0, 1), edges, offsets.repeat_interleave(count) // count, offsets)
    )


def ring(nodes: int) -> Tensor:
    return torch.stack([torch.arange(nodes), (torch.arange(nodes) + 1) % nodes])


def rings(count: int) -> list[Any]:
    return [(x, ring(4), y) for x, y in classified(4, 2)(count)]
