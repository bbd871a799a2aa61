#!/usr/bin/env python3
"""Times one training step of a GPT-2-like model in PyTorch on the CPU.

The yardstick of `hlmplan run` on the CPU.

The step is forward, backward, gradient clipping at norm 1 and AdamW, in fp32, on a batch of random
tokens, in the fastest eager form that PyTorch offers: scaled_dot_product_attention with is_causal,
tanh GELU, tied head, fused AdamW, gradients freed between steps. No dropout and no recompute.
PyTorch has no caching allocator on the CPU, so malloc is told to keep freed memory (--allocator
default: not), else every large tensor costs page faults in every step.

Prints one JSON line. step_s is the median wall time and step_cpu_s the median process CPU time of
the measured steps (on a machine shared with others the CPU time is the one to compare; with one
thread the two agree on an idle machine); tokens_per_s and tokens_per_cpu_s follow from them. The
parts are medians of CPU time.

    python3 bench/pytorch_cpu_step.py --layers 12 --hidden 768 --heads 12 --seq 256 --steps 5
"""

import argparse
import ctypes
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

PARTS = ("forward", "backward", "clip", "optimizer")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # mallopt of glibc


class Layer(nn.Module):
    """A pre-LayerNorm transformer layer."""

    def __init__(self, hidden, heads, ffn):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.fc1, self.fc2 = nn.Linear(hidden, ffn), nn.Linear(ffn, hidden)

    def forward(self, x):
        batch, seq, hidden = x.shape
        heads = self.qkv(self.norm1(x)).view(batch, seq, 3, self.heads, hidden // self.heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, seq, hidden))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x)), approximate="tanh"))


class Model(nn.Module):
    """GPT-2: token and position embeddings, layers, final norm, head tied to the token table."""

    def __init__(self, layers, hidden, heads, ffn, vocab, seq):
        super().__init__()
        self.token, self.position = nn.Embedding(vocab, hidden), nn.Embedding(seq, hidden)
        self.layers = nn.ModuleList(Layer(hidden, heads, ffn) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens, targets):
        x = self.token(tokens) + self.position.weight[:tokens.shape[1]]
        for layer in self.layers:
            x = layer(x)
        logits = F.linear(self.norm(x), self.token.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def make_optimizer(model, kind):
    """AdamW with decay on the layers' matrices only."""
    decayed = [p for p in model.layers.parameters() if p.dim() == 2]
    chosen = {id(p) for p in decayed}
    others = [p for p in model.parameters() if id(p) not in chosen]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8,
                             fused=kind == "fused", foreach=kind == "foreach")


def time_step(model, optimizer, batch):
    """One step: (wall seconds, CPU seconds of each part, loss)."""
    parameters = list(model.parameters())
    wall, marks = time.perf_counter(), [time.process_time()]
    loss = model(*batch)
    marks.append(time.process_time())
    loss.backward()
    marks.append(time.process_time())
    nn.utils.clip_grad_norm_(parameters, 1.0)
    marks.append(time.process_time())
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    marks.append(time.process_time())
    wall = time.perf_counter() - wall
    return wall, [after - before for before, after in zip(marks, marks[1:])], loss.item()


def keep_freed_memory():
    """Never returns memory to the system: no mmap for large blocks, no trimming of the heap."""
    mallopt = ctypes.CDLL(None).mallopt
    if not (mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1)):
        raise OSError("mallopt failed")


def measure(arguments):
    torch.manual_seed(1234)
    model = Model(arguments.layers, arguments.hidden, arguments.heads, arguments.ffn,
                  arguments.vocab, arguments.seq)
    optimizer = make_optimizer(model, arguments.optimizer)
    row = torch.randint(arguments.vocab, (arguments.batch, arguments.seq + 1))
    batch = row[:, :-1].contiguous(), row[:, 1:].contiguous()
    for _ in range(arguments.warmup):
        time_step(model, optimizer, batch)
    steps = [time_step(model, optimizer, batch) for _ in range(arguments.steps)]
    wall = [step[0] for step in steps]
    cpu = [sum(step[1]) for step in steps]
    tokens = arguments.batch * arguments.seq
    result = {
        "tokens_per_s": tokens / statistics.median(wall),
        "tokens_per_cpu_s": tokens / statistics.median(cpu),
        "step_s": statistics.median(wall), "step_cpu_s": statistics.median(cpu),
        "min_step_s": min(wall), "min_step_cpu_s": min(cpu),
    }
    for i, part in enumerate(PARTS):
        result[f"{part}_cpu_s"] = statistics.median(step[1][i] for step in steps)
    result.update({
        "loss": steps[-1][2], "num_params": sum(p.numel() for p in model.parameters()),
        "threads": torch.get_num_threads(), "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    })
    return {**vars(arguments), **result}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("layers", 12), ("hidden", 768), ("heads", 12), ("ffn", None),
                          ("vocab", 50257), ("seq", 256), ("batch", 1), ("steps", 5),
                          ("warmup", 2), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=default,
                            help=f"default {default or '4 x hidden'}")
    parser.add_argument("--optimizer", choices=("fused", "foreach", "loop"), default="fused")
    parser.add_argument("--allocator", choices=("keep", "default"), default="keep")
    arguments = parser.parse_args()
    if arguments.allocator == "keep":
        keep_freed_memory()
    arguments.ffn = arguments.ffn or 4 * arguments.hidden
    torch.set_num_threads(arguments.threads)
    torch.set_num_interop_threads(1)
    print(json.dumps(measure(arguments)))


if __name__ == "__main__":
    main()
