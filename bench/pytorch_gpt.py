#!/usr/bin/env python3
"""Trains the model and batch of a plan with PyTorch on one device: the yardstick of `hlmplan run` on a GPU.

Reads a plan that hlmplan wrote and trains its model (GPT-2 and Llama kinds) with the same sequences, microbatches and
padded vocabulary, in what PyTorch offers as its fast way: each layer and the loss under torch.compile, flash attention
through scaled_dot_product_attention, fused AdamW, gradient clipping at norm 1. When the plan says bf16, products
and activations are bf16 (autocast) and parameters, moments and gradients fp32, as hlmplan's master weights, moments and
gradients are. Layers that the plan recomputes in full are checkpointed; selective recompute is left out, because flash
attention keeps no scores to recompute. No dropout, synthetic tokens. Where torch.compile does not work (no Triton, no
compiler) the model runs uncompiled, and the note says so.

Writes one JSON object (one key a line): step_time_s is the median of the steps behind the warm-up; peak_bytes is the
allocator's peak; note is empty when everything above was as said. The same figures end the output as a line of text.

    python3 bench/pytorch_gpt.py --plan plan.json --device cuda -o torch.json
"""

import argparse
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


class RMSNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


def make_norm(model):
    if model["norm"] == "rmsnorm":
        return RMSNorm(model["hidden_size"], model["norm_eps"])
    return nn.LayerNorm(model["hidden_size"], eps=model["norm_eps"])


def rotation(model, seq_len, device):
    """Cosines and sines [seq_len, rotary / 2] of RoPE, or None."""
    if model["position"] != "rope":
        return None
    rotary = int(model["head_dim"] * model["rotary_frac"])
    frequencies = model["rope_theta"] ** (-torch.arange(0, rotary, 2, device=device, dtype=torch.float64) / rotary)
    angles = torch.arange(seq_len, device=device, dtype=torch.float64)[:, None] * frequencies
    return torch.stack((angles.cos(), angles.sin())).float()


def rotate(x, table):
    """Rotates the first and second half of the rotated part of each head; x is [batch, heads, seq, head_dim]."""
    cos, sin = table[0].to(x.dtype), table[1].to(x.dtype)
    half = cos.shape[-1]
    a, b, rest = x[..., :half], x[..., half:2 * half], x[..., 2 * half:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), dim=-1)


class Layer(nn.Module):
    """A layer with norms in front of its two branches."""

    def __init__(self, model):
        super().__init__()
        hidden, ffn, bias = model["hidden_size"], model["ffn_size"], model["bias"]
        self.heads, self.kv_heads, self.head_dim = model["num_heads"], model["num_kv_heads"], model["head_dim"]
        self.swiglu = model["activation"] == "swiglu"
        self.norm1, self.norm2 = make_norm(model), make_norm(model)
        self.qkv = nn.Linear(hidden, (self.heads + 2 * self.kv_heads) * self.head_dim, bias=bias["qkv"])
        self.out = nn.Linear(self.heads * self.head_dim, hidden, bias=bias["out"])
        self.fc1 = nn.Linear(hidden, 2 * ffn if self.swiglu else ffn, bias=bias["mlp"])
        self.fc2 = nn.Linear(ffn, hidden, bias=bias["mlp"])

    def attention(self, x, table):
        batch, seq, _ = x.shape
        qkv = self.qkv(x).view(batch, seq, -1, self.head_dim).transpose(1, 2)
        q, k, v = qkv.split((self.heads, self.kv_heads, self.kv_heads), dim=1)
        if table is not None:
            q, k = rotate(q, table), rotate(k, table)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.kv_heads != self.heads)
        return self.out(y.transpose(1, 2).reshape(batch, seq, -1))

    def mlp(self, x):
        y = self.fc1(x)
        if self.swiglu:
            gate, up = y.chunk(2, dim=-1)
            return self.fc2(F.silu(gate) * up)
        return self.fc2(F.gelu(y, approximate="tanh"))

    def forward(self, x, table):
        x = x + self.attention(self.norm1(x), table)
        return x + self.mlp(self.norm2(x))


def padded_vocab(model, tp):
    multiple = model["vocab_pad_multiple"] * tp
    return (model["vocab_size"] + multiple - 1) // multiple * multiple


class Decoder(nn.Module):
    """Token (and learned position) embedding, layers, norm, head.

    num_full: how many layers are checkpointed. stream: dtype of what goes from layer to layer.
    """

    def __init__(self, model, seq_len, vocab, num_full, stream):
        super().__init__()
        hidden = model["hidden_size"]
        self.num_full, self.stream = num_full, stream
        self.token = nn.Embedding(vocab, hidden)
        self.position = nn.Embedding(seq_len, hidden) if model["position"] == "learned" else None
        self.layers = nn.ModuleList(Layer(model) for _ in range(model["num_layers"]))
        self.norm = make_norm(model)
        self.head = self.token if model["tied_embeddings"] else nn.Linear(hidden, vocab, bias=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def loss(self, x, targets):
        logits = F.linear(self.norm(x), self.head.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    def forward(self, tokens, targets, table):
        x = self.token(tokens)
        if self.position is not None:
            x = x + self.position.weight[:tokens.shape[1]]
        x = x.to(self.stream)
        for index, layer in enumerate(self.layers):
            if index < self.num_full:
                x = checkpoint(layer, x, table, use_reentrant=False)
            else:
                x = layer(x, table)
        return self.loss(x, targets)


def check_plan(plan):
    """None, or why this program can't train the plan."""
    model, strategy = plan["model"], plan["strategy"]
    if model["kind"] != "decoder" or "moe" in model or "mla" in model or model["norm_placement"] != "pre":
        return "only decoders of dense layers with norms in front"
    if model["residual"] != "sequential" or model["attention_window"] > 0 or model["mtp_layers"] > 0 or model["qk_norm"]:
        return "a feature of the model"
    if strategy["dp"] * strategy["tp"] * strategy["pp"] * strategy["cp"] > 1:
        return "plans of one rank only"
    return None


class Trainer:
    """The model, its optimizer, and one step: microbatches, clipping, update."""

    def __init__(self, plan, device, compiled):
        model, strategy = plan["model"], plan["strategy"]
        self.strategy, self.device = strategy, device
        self.vocab = padded_vocab(model, strategy["tp"])
        self.table = rotation(model, strategy["seq_len"], device)
        num_full = sum(stage["recompute"]["full"] for stage in plan["stages"])
        is_bf16 = strategy["dtype"] == "bf16"
        torch.manual_seed(1234)
        with torch.device(device):
            self.model = Decoder(model, strategy["seq_len"], self.vocab, num_full,
                                 torch.bfloat16 if is_bf16 else torch.float32)
        self.autocast = torch.autocast(device, dtype=torch.bfloat16, enabled=is_bf16)
        if compiled:
            for layer in self.model.layers:
                layer.compile()
            self.model.loss = torch.compile(self.model.loss)
        matrices = [p for p in self.model.parameters() if p.dim() == 2]
        others = [p for p in self.model.parameters() if p.dim() != 2]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)
        shape = (strategy["global_batch_size"], strategy["seq_len"] + 1)
        self.tokens = torch.randint(0, model["vocab_size"], shape, device=device)

    def step(self):
        size, count = self.strategy["microbatch_size"], self.strategy["num_microbatches"]
        total = torch.zeros((), device=self.device)
        for tokens in self.tokens.split(size):
            with self.autocast:
                loss = self.model(tokens[:, :-1], tokens[:, 1:], self.table) / count
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def timed_step(self):
        """Seconds of one step, and its loss."""
        self.sync()
        start = time.perf_counter()
        loss = self.step()
        self.sync()
        return time.perf_counter() - start, float(loss)

    def sync(self):
        if self.device == "cuda":
            torch.cuda.synchronize()


def start(plan, device, want_compile):
    """A trainer behind its first step, compiled where that works; and the note."""
    if not want_compile:
        trainer = Trainer(plan, device, False)
        return trainer, trainer.timed_step()[1], "not compiled"
    try:
        trainer = Trainer(plan, device, True)
        return trainer, trainer.timed_step()[1], ""
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # torch.compile fails in many ways: no Triton, no compiler, an internal error
        print(f"torch.compile does not work here: {error}", file=sys.stderr)
        reason = type(error).__name__
    trainer = Trainer(plan, device, False)
    return trainer, trainer.timed_step()[1], f"not compiled: {reason}"


def measure(plan, args):
    if args.device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = plan["strategy"]["dtype"] != "fp32"
    trainer, first_loss, note = start(plan, args.device, args.compile)
    for _ in range(args.warmup - 1):
        trainer.timed_step()
    if args.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    steps = [trainer.timed_step() for _ in range(args.steps - args.warmup)]
    step_time_s = statistics.median(seconds for seconds, _ in steps)
    tokens = plan["strategy"]["global_batch_size"] * plan["strategy"]["seq_len"]
    return {
        "model": plan["model"]["name"],
        "step_time_s": step_time_s,
        "tokens_per_s": tokens / step_time_s,
        "peak_bytes": torch.cuda.max_memory_allocated() if args.device == "cuda" else 0,
        "first_loss": first_loss,
        "last_loss": steps[-1][1],
        "num_parameters": sum(p.numel() for p in trainer.model.parameters()),
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "version": torch.__version__,
        "note": note,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--plan", required=True, help="plan.json of hlmplan, of one rank")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--steps", type=int, default=8, help="steps, warm-up included")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("-o", "--output", help="write the JSON object there")
    args = parser.parse_args()
    if not 1 <= args.warmup < args.steps:
        parser.error("--warmup must be at least 1 and less than --steps")
    with open(args.plan, encoding="utf-8") as file:
        plan = json.load(file)
    refusal = check_plan(plan)
    if refusal is not None:
        sys.exit(f"{args.plan}: this program can't train it: {refusal}")
    try:
        result = measure(plan, args)
    except torch.OutOfMemoryError:
        sys.exit("PyTorch ran out of memory")
    if args.output is not None:
        with open(args.output, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=2)
            file.write("\n")
    print(f"{result['model']}: {result['step_time_s'] * 1e3:.4g} ms a step, {result['tokens_per_s']:.6g} tokens/s, "
          f"{result['peak_bytes'] / 2**30:.2f} GiB, loss {result['last_loss']:.4f}"
          + (f" ({result['note']})" if result["note"] else ""))


if __name__ == "__main__":
    main()
