#!/usr/bin/env python3
"""Writes the reference results golden-{gpt2,llama,moe,bert,vit}.json beside this file.

Each holds the loss and every parameter gradient of one training step of a tiny model, and the
losses and gradient norms of five AdamW steps, all computed in float64 by PyTorch (models.py). The
executor's tests make the same parameters and inputs from the same rules and compare. Nothing here
is read at run time; the files are remade only when a rule changes:

    python3 tests/reference/make_golden.py             rewrite the files
    python3 tests/reference/make_golden.py --check     recompute and compare with the files
    python3 tests/reference/check_golden.py            referees of this script

RANDOM NUMBERS (base/rng.h, rng.py). seed = 1234.
  key(name)      hlm_hash(HLM_HASH_START, name, strlen(name)) ^ seed
  uniform(k, i)  hlm_rng_uniform(k, i);  normal(k, i) = hlm_rng_normal(k, i)

PARAMETERS. Value of element i (row-major index in the whole, unsharded, unpadded tensor) of
parameter `name`, with n = normal(key(name), i), computed in double and then rounded to float32:
  norm weights (*.norm*.weight)                  1 + 0.02 n
  *.out.weight, *.fc2.weight                     (0.02 / sqrt(2 num_layers)) n
  everything else, biases included               0.02 n
Linear layers are y = x W^T + b with W [outputs, inputs]. h hidden, f ffn, a heads, g key/value
heads, d head_dim, C channels, p patch size, l layer from 0:
  embed.token [vocab, h]                         not vit; also the head's weight when tied
  embed.patch.weight [h, C p p], .bias [h]       vit; columns ordered (channel, y, x)
  embed.class [1, h]                             vit
  embed.position [seq_len, h]                    learned positions; vit: class token is position 0
  embed.token_type [token_types, h]              bert; row 0 is used everywhere
  embed.norm.weight, .bias [h]                   bert
  layer.{l}.norm1.weight, .bias [h]              before attention; bert: after its residual add
  layer.{l}.qkv.weight [(a + 2 g) d, h], .bias   rows: query heads, key heads, value heads
  layer.{l}.out.weight [h, a d], .bias [h]
  layer.{l}.norm2.weight, .bias [h]              before the MLP; bert: after its residual add
  layer.{l}.fc1.weight [f or 2 f, h], .bias      swiglu: gate rows, then up rows: silu(gate) * up
  layer.{l}.fc2.weight [h, f], .bias [h]
  layer.{l}.router.weight [E, h]                 moe, in place of fc1 and fc2; E experts of width e
  layer.{l}.experts.fc1.weight [E 2 e, h]        moe; each expert's gate rows, then its up rows
  layer.{l}.experts.fc2.weight [E h, e]          moe; the experts below each other
  layer.{l}.shared.fc1.weight [2 s, h], .fc2.weight [h, s]   moe; the shared expert of width s
  head.dense.weight [h, h], .bias [h]            bert: dense, GELU, head.norm, tied decoder
  head.norm.weight, .bias [h]                    final norm; bert: norm of the head's transform
  head.weight [vocab or classes, h]              absent when tied
  head.bias [vocab or classes]                   bert: decoder bias; vit: classifier bias
In moe, layer l is dense for l < num_dense_layers. A row's experts are the top_k largest entries of
router.weight x; their outputs are added with a softmax over these entries as weights, and the
shared expert's output with weight 1. No choice of these five steps is closer than 1e-5.
RMSNorm has no bias; llama has no biases at all. GELU is the tanh approximation in all models. RoPE
rotates pairs (i, i + d/2) by position * theta^(-2 i / d). Attention is causal for decoders, scaled
by 1 / sqrt(d); query head i reads key/value head i / (a / g). The vit head reads the class token
only (classifier(norm(x[:, 0])), no pooler).

INPUTS. Sample i of step t (both from 0) has the global index s = t global_batch + i.
  token(s, j)    floor(uniform(key("tokens"), s (seq_len + 1) + j) * vocab)
  decoder        inputs are tokens j = 0 .. seq_len - 1, targets are tokens j = 1 .. seq_len
  encoder        tokens j = 0 .. seq_len - 1; position j is masked when
                 uniform(key("mask"), s seq_len + j) < 0.15 or j == s % seq_len;
                 a masked input is vocab - 1, its target is the token; other positions have no loss
  vit            pixel (c, y, x) = normal(key("pixels"), ((s C + c) H + y) W + x) as float32;
                 label = floor(uniform(key("labels"), s) * num_classes)

LOSS. Mean cross-entropy (natural logarithm) over all targets of the global batch: for bert the sum
over masked positions of the whole global batch divided by their number in the whole global batch.

OPTIMIZER. losses[t] and grad_norms[t] belong to step t's inputs before update t; grad_norms[t] is
the 2-norm over all parameters (tied weights once) before clipping. All gradients are multiplied by
min(1, 1 / (norm + 1e-6)). AdamW with decoupled decay, u = t + 1, in this order:
  w -= lr decay w;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g g
  w -= lr (m / (1 - b1^u)) / (sqrt(v / (1 - b2^u)) + eps)
lr 1e-3, b1 0.9, b2 0.95, eps 1e-8; decay 0.1 for parameters with "decay": true (weights of matrix
products: all *.weight that are no norm's), 0 for biases, norms, embed.token (tied too),
embed.position, embed.token_type and embed.class. The parameters start as float32 values and are
then kept in float64.

FILE. "inputs" and "targets" are step 0's, row-major ([global_batch][seq_len], target -1: no loss;
vit: inputs empty, targets the labels). Per parameter: "digest" is hlm_hash(HLM_HASH_START, ...) of
the initial float32 values' little-endian bytes in 16 hex digits, "grad" the gradient of step 0,
row-major, "update_norm" the 2-norm of (value after five steps - initial value).

TOLERANCES for an executor in float32, with a margin over float32 rounding as PyTorch shows it here:
gradients 1e-5 of the largest entry of the tensor (rounding < 1e-6; a missing rotation, scale or
other GELU moves some tensor by more than 1e-5), update_norm 5e-5 relative (rounding < 2e-5; decay
left out moves some tensor by 3e-4), losses 2e-6. The losses alone would miss most such mistakes.
"""

import argparse
import json
import pathlib
import platform
import sys

import numpy as np
import torch

import models
import rng

SEED = 1234
GLOBAL_BATCH = 4
NUM_STEPS = 5
ADAMW = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "max_norm": 1.0}
FOLDER = pathlib.Path(__file__).resolve().parent
RULES = "docstring of tests/reference/make_golden.py"
TOLERANCE = 1e-11


def make_parameters(model, seed):
    """Name -> float64 leaf tensor that holds the float32 initial value."""
    parameters = {}
    for name, shape in models.parameter_shapes(model):
        value = models.parameter_value(model, name, shape, seed).astype(np.float64)
        parameters[name] = torch.tensor(value, requires_grad=True)
    return parameters


def step_inputs(model, step):
    """Inputs (vit: float64) and targets of a step as tensors."""
    inputs, targets = models.make_inputs(model, SEED, step, GLOBAL_BATCH)
    inputs = inputs.astype(np.float64) if model["kind"] == "vit" else inputs
    return torch.tensor(inputs), torch.tensor(targets)


def make_optimizer(parameters):
    groups = [{"params": [p for name, p in parameters.items() if models.is_decayed(name) == decay],
               "weight_decay": ADAMW["weight_decay"] if decay else 0.0} for decay in (True, False)]
    return torch.optim.AdamW(groups, lr=ADAMW["lr"], betas=(ADAMW["beta1"], ADAMW["beta2"]),
                             eps=ADAMW["eps"], foreach=False)


def train(model):
    """Gradients of step 0 by name, losses and gradient norms of all steps, update norms by name."""
    parameters = make_parameters(model, SEED)
    start = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer = make_optimizer(parameters)
    gradients, losses, norms = None, [], []
    for step in range(NUM_STEPS):
        optimizer.zero_grad()
        loss = models.loss(model, parameters, *step_inputs(model, step))
        loss.backward()
        if step == 0:
            gradients = {name: p.grad.numpy().copy() for name, p in parameters.items()}
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), ADAMW["max_norm"])
        optimizer.step()
        losses.append(loss.item())
        norms.append(norm.item())
    updates = {name: (p.detach() - start[name]).norm().item() for name, p in parameters.items()}
    return gradients, losses, norms, updates


def digest(value):
    """16 hex digits of the FNV-1a hash of the float32 bytes, little-endian."""
    return f"{rng.hash_bytes(rng.HASH_START, value.astype('<f4').tobytes()):016x}"


def describe_parameter(model, name, shape, gradient, update_norm):
    return {"name": name, "shape": list(shape), "decay": models.is_decayed(name),
            "digest": digest(models.parameter_value(model, name, shape, SEED)),
            "update_norm": update_norm,
            "grad": gradient.ravel().tolist()}


def make_golden(model):
    gradients, losses, norms, updates = train(model)
    inputs, targets = models.make_inputs(model, SEED, 0, GLOBAL_BATCH)
    return {
        "schema": "hlmplan.golden", "version": 1,
        "made_with": {"python": platform.python_version(), "numpy": np.__version__,
                      "torch": torch.__version__},
        "rules": RULES,
        "model": model,
        "global_batch_size": GLOBAL_BATCH, "seq_len": model["seq_len"], "seed": SEED,
        "adamw": ADAMW,
        "inputs": [] if model["kind"] == "vit" else inputs.ravel().tolist(),
        "targets": targets.ravel().tolist(),
        "loss": losses[0],
        "losses": losses,
        "grad_norms": norms,
        "parameters": [describe_parameter(model, name, shape, gradients[name], updates[name])
                       for name, shape in models.parameter_shapes(model)],
    }


def format_json(value, indent=0):
    """JSON with one key a line, arrays of numbers in one line, doubles in shortest form."""
    pad = "  " * (indent + 1)
    if isinstance(value, dict):
        rows = [f"{pad}{json.dumps(key)}: {format_json(item, indent + 1)}"
                for key, item in value.items()]
        return "{\n" + ",\n".join(rows) + "\n" + "  " * indent + "}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        rows = [pad + format_json(item, indent + 1) for item in value]
        return "[\n" + ",\n".join(rows) + "\n" + "  " * indent + "]"
    return json.dumps(value, allow_nan=False)


def differences(found, expected, path="$"):
    """Paths where two objects differ: numbers by more than rounding, made_with not at all."""
    if isinstance(found, dict) and isinstance(expected, dict):
        if found.keys() != expected.keys():
            return [f"{path}: keys differ"]
        pairs = [(f"{path}.{key}", found[key], expected[key])
                 for key in found if key != "made_with"]
    elif isinstance(found, list) and isinstance(expected, list):
        if len(found) != len(expected):
            return [f"{path}: {len(found)} entries, expected {len(expected)}"]
        pairs = [(f"{path}[{i}]", *pair) for i, pair in enumerate(zip(found, expected))]
    elif isinstance(found, float) and isinstance(expected, float):
        close = abs(found - expected) <= TOLERANCE * max(1.0, abs(expected))
        return [] if close else [f"{path}: {found!r}, expected {expected!r}"]
    else:
        return [] if found == expected else [f"{path}: {found!r}, expected {expected!r}"]
    return [row for pair in pairs for row in differences(pair[1], pair[2], pair[0])]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the files instead")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    failures = []
    for name, model in models.MODELS.items():
        path = FOLDER / f"golden-{name}.json"
        golden = make_golden(model)
        if arguments.check:
            rows = differences(golden, json.loads(path.read_text()))
            failures += [f"{path.name}: {row}" for row in rows]
        else:
            path.write_text(format_json(golden) + "\n")
        print(f"{path.name}: loss {golden['loss']:.6f}, norms "
              + " ".join(f"{norm:.4f}" for norm in golden["grad_norms"]))
    print("\n".join(failures[:20]), file=sys.stderr, end="\n" if failures else "")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
