"""LightningModules of users: recurrent layers, transformers, and embeddings of tokens."""

from dataclasses import dataclass

import torch
from plain_modules import Supervised
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 as everybody calls it
from torch.nn.utils.rnn import pack_padded_sequence
from user_samples import CLASSES, VOCABULARY


@dataclass
class CausalOutput:
    """The output of a language model: first the loss, which has no batch dimension."""

    loss: Tensor | None
    logits: Tensor


class CausalTransformer(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 8)
        self.positions = nn.Embedding(16, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(8, VOCABULARY, bias=False)

    def forward(self, input_ids, labels=None):
        length = input_ids.shape[1]
        x = self.embed(input_ids) + self.positions(torch.arange(length, device=input_ids.device))
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=x.device)
        logits = self.head(self.encoder(x, mask=mask, is_causal=True))
        loss = None if labels is None else F.cross_entropy(logits.transpose(1, 2), labels)
        return CausalOutput(loss, logits)

    def training_step(self, batch, batch_idx):
        return self(**batch).loss

    def validation_step(self, batch, batch_idx):
        self.log("val_perplexity", self(**batch).loss.exp())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class Lengths(LightningModule):
    """A recurrent classifier of sequences. Their lengths are a second argument."""

    def __init__(self, *, packed: bool) -> None:
        super().__init__()
        self.packed = packed
        self.lstm = nn.LSTM(3, 5, batch_first=True)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x, lengths):
        if self.packed:
            x = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
            return self.head(self.lstm(x)[1][0][-1])
        states, _ = self.lstm(x)
        return self.head(states[torch.arange(len(x)), lengths - 1])

    def training_step(self, batch, batch_idx):
        x, lengths, y = batch
        return F.cross_entropy(self(x, lengths), y)

    def validation_step(self, batch, batch_idx):
        x, lengths, y = batch
        self.log("val_loss", F.cross_entropy(self(x, lengths), y))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class GRU(Supervised):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(3, 4, num_layers=2, dropout=0.1, bidirectional=True, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        _, last = self.gru(x)
        return self.head(torch.cat([last[-2], last[-1]], 1))


class TextClassifier(LightningModule):
    """Classifies the mean of the embeddings that the mask selects."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 6, padding_idx=0)
        self.classifier = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, CLASSES))

    def forward(self, input_ids, attention_mask):
        mask = attention_mask.unsqueeze(-1).float()
        return self.classifier((self.embedding(input_ids) * mask).sum(1) / mask.sum(1))

    def shared_step(self, batch):
        logits = self(batch["input_ids"], attention_mask=batch["attention_mask"])
        return F.cross_entropy(logits, batch["labels"])

    def training_step(self, batch, batch_idx):
        return self.shared_step(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.shared_step(batch))

    def configure_optimizers(self):
        return torch.optim.Adagrad(self.parameters(), lr=0.05)


class TiedLanguageModel(LightningModule):
    """Its head has the weight of the embedding. The batch is a tensor of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 5)
        self.rnn = nn.RNN(5, 5, nonlinearity="relu", batch_first=True)
        self.head = nn.Linear(5, VOCABULARY)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(self.rnn(self.embedding(tokens))[0])

    def loss(self, tokens):
        return F.cross_entropy(self(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Lazy(Supervised):
    """Makes a table of positions in its first forward, and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.table: Tensor | None = None
        self.layer = nn.Linear(3, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        if self.table is None or len(self.table) < x.shape[1]:
            self.table = torch.arange(x.shape[1], device=x.device).float()[:, None].sin()
        return self.head(F.relu(self.layer(x + self.table)).mean(1))
