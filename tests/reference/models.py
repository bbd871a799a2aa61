"""The five tiny models, written by hand in plain torch operations, and their parameters and inputs.

`MODELS` holds an hlmplan model object each (keys of profiles/model.h in struct order). One forward
pass serves all of them: every branch is decided by a field of the model object, none by its name.
Rules for names, shapes, values and inputs: see the docstring of make_golden.py, which is their
specification.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

import rng

STD = 0.02
NO_MOE = {"num_experts": 0, "top_k": 0, "ffn_size": 0, "shared_ffn_size": 0, "num_dense_layers": 0,
          "layer_period": 1}
NO_MLA = {"q_lora_rank": 0, "kv_lora_rank": 0, "qk_nope_head_dim": 0, "qk_rope_head_dim": 0,
          "v_head_dim": 0}
NO_VIT = {"image_size": 0, "patch_size": 0, "num_classes": 0, "num_channels": 0}
ALL_BIASES = {"qkv": True, "out": True, "mlp": True}
NO_BIASES = {"qkv": False, "out": False, "mlp": False}


def make_model(**fields):
    """A full model object: GPT-2's choices, with what differs given by keyword."""
    model = {
        "name": None, "kind": "decoder", "seq_len": 12, "hidden_size": 16, "ffn_size": 64,
        "num_layers": 4, "num_heads": 4, "num_kv_heads": 4, "head_dim": 4, "vocab_size": 50,
        "activation": "gelu", "norm": "layernorm", "norm_placement": "pre", "norm_eps": 1e-5,
        "residual": "sequential", "position": "learned", "rotary_frac": 1.0, "rope_theta": 10000.0,
        "attention_window": 0, "bias": ALL_BIASES, "dropout": 0.0, "tied_embeddings": True,
        "vocab_pad_multiple": 1, "moe": NO_MOE, "mla": NO_MLA, "vit": NO_VIT, "mtp_layers": 0,
        "qk_norm": False, "token_types": 0,
    }
    assert set(fields) <= set(model)
    return {**model, **fields}


MODELS = {
    "gpt2": make_model(name="tiny-gpt2"),
    "llama": make_model(name="tiny-llama", seq_len=8, ffn_size=48, num_kv_heads=2, vocab_size=64,
                        activation="swiglu", norm="rmsnorm", position="rope", bias=NO_BIASES,
                        tied_embeddings=False),
    "moe": make_model(name="tiny-moe", seq_len=8, ffn_size=48, num_kv_heads=2, vocab_size=64,
                      activation="swiglu", norm="rmsnorm", position="rope", bias=NO_BIASES,
                      tied_embeddings=False,
                      moe={"num_experts": 4, "top_k": 2, "ffn_size": 24, "shared_ffn_size": 16,
                           "num_dense_layers": 1, "layer_period": 1}),
    "bert": make_model(name="tiny-bert", kind="encoder", vocab_size=40, norm_placement="post",
                       norm_eps=1e-12, token_types=2),
    "vit": make_model(name="tiny-vit", kind="vit", seq_len=5, vocab_size=0, norm_eps=1e-12,
                      tied_embeddings=False,
                      vit={"image_size": 8, "patch_size": 4, "num_classes": 10, "num_channels": 3}),
}


def norm_parameters(model, name):
    """Weight, and for a LayerNorm bias, of one norm."""
    rows = [(f"{name}.weight", (model["hidden_size"],))]
    if model["norm"] == "layernorm":
        rows.append((f"{name}.bias", (model["hidden_size"],)))
    return rows


def linear_parameters(name, rows, cols, bias):
    """Weight [rows, cols] and bias [rows] of y = x W^T + b."""
    return [(f"{name}.weight", (rows, cols))] + ([(f"{name}.bias", (rows,))] if bias else [])


def embedding_parameters(model):
    h, vit = model["hidden_size"], model["vit"]
    rows = []
    if model["kind"] == "vit":
        patch = vit["num_channels"] * vit["patch_size"] ** 2
        rows += linear_parameters("embed.patch", h, patch, True) + [("embed.class", (1, h))]
    else:
        rows.append(("embed.token", (model["vocab_size"], h)))
    if model["position"] == "learned":
        rows.append(("embed.position", (model["seq_len"], h)))
    if model["token_types"] > 0:
        rows.append(("embed.token_type", (model["token_types"], h)))
    if model["norm_placement"] == "post":
        rows += norm_parameters(model, "embed.norm")
    return rows


def is_moe_layer(model, layer):
    moe = model["moe"]
    behind = layer - moe["num_dense_layers"]
    return moe["num_experts"] > 0 and behind >= 0 and behind % moe["layer_period"] == 0


def feed_forward_parameters(model, layer):
    """The MLP, or router, experts below each other and the shared expert."""
    h, moe, name = model["hidden_size"], model["moe"], f"layer.{layer}"
    branches, bias = 2 if model["activation"] == "swiglu" else 1, model["bias"]["mlp"]
    if not is_moe_layer(model, layer):
        return (linear_parameters(f"{name}.fc1", branches * model["ffn_size"], h, bias)
                + linear_parameters(f"{name}.fc2", h, model["ffn_size"], bias))
    e, f, s = moe["num_experts"], moe["ffn_size"], moe["shared_ffn_size"]
    return (linear_parameters(f"{name}.router", e, h, False)
            + linear_parameters(f"{name}.experts.fc1", e * branches * f, h, False)
            + linear_parameters(f"{name}.experts.fc2", e * h, f, False)
            + linear_parameters(f"{name}.shared.fc1", branches * s, h, bias)
            + linear_parameters(f"{name}.shared.fc2", h, s, bias))


def layer_parameters(model, layer):
    h, d, bias = model["hidden_size"], model["head_dim"], model["bias"]
    a, g = model["num_heads"], model["num_kv_heads"]
    name = f"layer.{layer}"
    return (norm_parameters(model, f"{name}.norm1")
            + linear_parameters(f"{name}.qkv", (a + 2 * g) * d, h, bias["qkv"])
            + linear_parameters(f"{name}.out", h, a * d, bias["out"])
            + norm_parameters(model, f"{name}.norm2")
            + feed_forward_parameters(model, layer))


def head_parameters(model):
    h = model["hidden_size"]
    rows = []
    if model["kind"] == "encoder":
        rows += linear_parameters("head.dense", h, h, True)
    rows += norm_parameters(model, "head.norm")
    outputs = model["vit"]["num_classes"] or model["vocab_size"]
    if not model["tied_embeddings"]:
        rows.append(("head.weight", (outputs, h)))
    if model["kind"] != "decoder":
        rows.append(("head.bias", (outputs,)))
    return rows


def parameter_shapes(model):
    """(name, shape) of every parameter in forward order; tied weights once."""
    rows = embedding_parameters(model)
    for layer in range(model["num_layers"]):
        rows += layer_parameters(model, layer)
    return rows + head_parameters(model)


def is_norm_weight(name):
    return name.endswith(".weight") and name.split(".")[-2].startswith("norm")


def is_decayed(name):
    """Weight decay is for the weights of matrix products: all *.weight that are no norm's."""
    return name.endswith(".weight") and not is_norm_weight(name)


def parameter_value(model, name, shape, seed):
    """Initial value as float32."""
    value = rng.normal(rng.key(name, seed), np.arange(math.prod(shape)))
    if is_norm_weight(name):
        value = 1.0 + STD * value
    elif name.endswith((".out.weight", ".fc2.weight")):
        value = (STD / math.sqrt(2.0 * model["num_layers"])) * value
    else:
        value = STD * value
    return value.astype(np.float32).reshape(shape)


def make_inputs(model, seed, step, global_batch):
    """Inputs and targets of one step: integer arrays [global_batch, seq_len], target -1 for
    no loss; vit: float32 pixels [global_batch, channels, size, size] and labels [global_batch]."""
    sample = step * global_batch + np.arange(global_batch)
    if model["kind"] == "vit":
        vit = model["vit"]
        shape = (global_batch, vit["num_channels"], vit["image_size"], vit["image_size"])
        first = step * math.prod(shape)
        index = np.arange(first, first + math.prod(shape))
        pixels = rng.normal(rng.key("pixels", seed), index).astype(np.float32).reshape(shape)
        label = rng.uniform(rng.key("labels", seed), sample) * vit["num_classes"]
        return pixels, label.astype(np.int64)
    seq, vocab = model["seq_len"], model["vocab_size"]
    index = sample[:, None] * (seq + 1) + np.arange(seq + 1)[None, :]
    row = (rng.uniform(rng.key("tokens", seed), index) * vocab).astype(np.int64)
    if model["kind"] == "decoder":
        return row[:, :-1], row[:, 1:]
    row = row[:, :-1]
    position = np.arange(seq)[None, :]
    masked = rng.uniform(rng.key("mask", seed), sample[:, None] * seq + position) < 0.15
    masked |= position == sample[:, None] % seq
    return np.where(masked, vocab - 1, row), np.where(masked, row, -1)


def norm(model, p, name, x):
    if model["norm"] == "rmsnorm":
        scale = torch.rsqrt((x * x).mean(-1, keepdim=True) + model["norm_eps"])
        return x * scale * p[f"{name}.weight"]
    centred = x - x.mean(-1, keepdim=True)
    scale = torch.rsqrt((centred * centred).mean(-1, keepdim=True) + model["norm_eps"])
    return centred * scale * p[f"{name}.weight"] + p[f"{name}.bias"]


def linear(p, name, x):
    y = x @ p[f"{name}.weight"].T
    return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def gelu(x):
    """The tanh approximation."""
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def rotate(model, x):
    """RoPE of x [batch, heads, seq, d]: pairs (i, i + d/2), angle = position * theta^(-2 i / d)."""
    half = model["head_dim"] // 2
    exponent = -torch.arange(half, dtype=x.dtype) / half
    angle = torch.arange(x.shape[2], dtype=x.dtype)[:, None] * model["rope_theta"] ** exponent
    cos, sin = torch.cos(angle), torch.sin(angle)
    low, high = x[..., :half], x[..., half:]
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


def attention(model, p, name, x):
    """Query head i reads key/value head i / (num_heads / num_kv_heads)."""
    batch, seq, _ = x.shape
    a, g, d = model["num_heads"], model["num_kv_heads"], model["head_dim"]
    heads = linear(p, f"{name}.qkv", x).view(batch, seq, a + 2 * g, d).transpose(1, 2)
    q, k, v = heads[:, :a], heads[:, a:a + g], heads[:, a + g:]
    if model["position"] == "rope":
        q, k = rotate(model, q), rotate(model, k)
    k, v = (t.repeat_interleave(a // g, dim=1) for t in (k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(d)
    if model["kind"] == "decoder":
        hidden = torch.ones(seq, seq, dtype=torch.bool).triu(1)
        scores = scores.masked_fill(hidden, -math.inf)
    context = torch.softmax(scores, dim=-1) @ v
    return linear(p, f"{name}.out", context.transpose(1, 2).reshape(batch, seq, a * d))


def activation(model, y):
    if model["activation"] == "swiglu":
        gate, up = y.chunk(2, dim=-1)
        return gate * torch.sigmoid(gate) * up
    return gelu(y)


def mlp(model, p, name, x):
    return linear(p, f"{name}.fc2", activation(model, linear(p, f"{name}.fc1", x)))


def route(model, p, name, rows):
    """Chosen experts [rows, top_k] and their weights, a softmax over the chosen scores."""
    value, index = torch.topk(linear(p, f"{name}.router", rows), model["moe"]["top_k"])
    return index, torch.softmax(value, dim=-1)


def experts(model, p, name, x):
    """The weighted sum of the chosen experts and the shared one."""
    rows = x.flatten(0, -2)
    index, weight = route(model, p, name, rows)
    fc1 = p[f"{name}.experts.fc1.weight"].unflatten(0, (model["moe"]["num_experts"], -1))
    fc2 = p[f"{name}.experts.fc2.weight"].unflatten(0, (model["moe"]["num_experts"], -1))
    y = torch.zeros_like(rows)
    for e in range(model["moe"]["num_experts"]):
        row, slot = (index == e).nonzero(as_tuple=True)
        made = activation(model, rows[row] @ fc1[e].T) @ fc2[e].T
        y = y.index_add(0, row, weight[row, slot, None] * made)
    return y.view_as(x) + mlp(model, p, f"{name}.shared", x)


def feed_forward(model, p, layer, x):
    return (experts if is_moe_layer(model, layer) else mlp)(model, p, f"layer.{layer}", x)


def layer_forward(model, p, layer, x):
    name = f"layer.{layer}"
    if model["norm_placement"] == "pre":
        x = x + attention(model, p, name, norm(model, p, f"{name}.norm1", x))
        return x + feed_forward(model, p, layer, norm(model, p, f"{name}.norm2", x))
    x = norm(model, p, f"{name}.norm1", x + attention(model, p, name, x))
    return norm(model, p, f"{name}.norm2", x + feed_forward(model, p, layer, x))


def embed_patches(model, p, pixels):
    """Patches row by row; inside a patch (channel, y, x); the class token comes first."""
    size, batch = model["vit"]["patch_size"], pixels.shape[0]
    patches = pixels.unfold(2, size, size).unfold(3, size, size)  # [batch, c, py, px, y, x]
    patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(1, 2).flatten(2)
    token = p["embed.class"].expand(batch, 1, -1)
    return torch.cat((token, linear(p, "embed.patch", patches)), dim=1)


def embed(model, p, inputs):
    x = embed_patches(model, p, inputs) if model["kind"] == "vit" else p["embed.token"][inputs]
    if model["position"] == "learned":
        x = x + p["embed.position"][:x.shape[1]]
    if model["token_types"] > 0:
        x = x + p["embed.token_type"][0]
    return norm(model, p, "embed.norm", x) if model["norm_placement"] == "post" else x


def head(model, p, x):
    """Logits: [batch, seq, vocab], or [batch, classes] of the class token."""
    if model["kind"] == "encoder":
        x = gelu(linear(p, "head.dense", x))
    x = norm(model, p, "head.norm", x[:, 0] if model["kind"] == "vit" else x)
    y = x @ p["embed.token" if model["tied_embeddings"] else "head.weight"].T
    return y + p["head.bias"] if "head.bias" in p else y


def loss(model, p, inputs, targets):
    """Mean cross-entropy over the targets that count (>= 0) of the whole global batch."""
    x = embed(model, p, inputs)
    for layer in range(model["num_layers"]):
        x = layer_forward(model, p, layer, x)
    return F.cross_entropy(head(model, p, x).flatten(0, -2), targets.flatten(), ignore_index=-1)
