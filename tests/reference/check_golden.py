#!/usr/bin/env python3
"""Referees of make_golden.py, each sharing little with it; exit code 1 on a failure.

    random numbers     scalar Python integers against rng.py's arrays, and published FNV-1a values
    finite differences central differences of the loss, three entries of every parameter
    optimizer          AdamW and clipping written out as in make_golden.py's docstring
    experts            outputs of a mixture of experts row by row in numpy, and that no choice of the
                       five steps hangs on the rounding of float32
    Hugging Face       loss and all gradients of transformers' own GPT-2, Llama, BERT and ViT in
                       float64; reported as skipped where transformers is not installed, and for
                       moe, whose like (a softmax over the chosen and a plain shared expert) it lacks
"""

import json
import math
import sys

import numpy as np
import torch
import torch.nn.functional as F

import make_golden
import models
import rng

ENTRIES = 3
STEP = 1e-4
MASK = 0xFFFFFFFFFFFFFFFF


def load(name):
    """Golden file and its gradients by name."""
    golden = json.loads((make_golden.FOLDER / f"golden-{name}.json").read_text())
    return golden, {row["name"]: np.array(row["grad"]).reshape(row["shape"])
                    for row in golden["parameters"]}


def relative_error(found, expected):
    """Largest difference relative to the largest expected value."""
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-300))


def scalar_uniform(key, index):
    z = (key + (index + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return ((z ^ (z >> 31)) >> 11) / 2.0**53


def check_random_numbers():
    assert rng.hash_bytes(rng.HASH_START, b"") == 0xCBF29CE484222325
    assert rng.hash_bytes(rng.HASH_START, b"a") == 0xAF63DC4C8601EC8C
    assert rng.hash_bytes(rng.HASH_START, b"foobar") == 0x85944171F73967E8
    assert rng.bits(0, 0)[0] == 0xE220A8397B1DCDAF  # first output of SplitMix64 seeded with 0
    key = rng.key("embed.token", 1234)
    index = [0, 1, 77, 2**31 + 5, 2**62 + 3]
    for i, found in zip(index, rng.normal(key, np.array(index, dtype=np.uint64))):
        u = [scalar_uniform(key, (4 * i + k) & MASK) for k in range(4)]
        assert found == (u[0] + u[1] + u[2] + u[3] - 2.0) * math.sqrt(3.0)
    sample = rng.normal(key, np.arange(100000))
    assert abs(sample.mean()) < 0.01 and abs(sample.var() - 1.0) < 0.01
    return "exact"


class FixedChoices:
    """While in use, rows go to the experts that they chose at first: a loss is smooth only so."""

    def __enter__(self):
        self.route, self.index = models.route, {}
        models.route = self.fixed_route
        return self

    def __exit__(self, *_):
        models.route = self.route

    def fixed_route(self, model, p, name, rows):
        if name not in self.index:
            self.index[name] = self.route(model, p, name, rows)[0]
        scores = models.linear(p, f"{name}.router", rows)
        return self.index[name], torch.softmax(scores.gather(1, self.index[name]), dim=-1)


def check_finite_differences(name):
    golden, gradients = load(name)
    model, worst = golden["model"], 0.0
    parameters = make_golden.make_parameters(model, golden["seed"])
    batch = make_golden.step_inputs(model, 0)
    pick = np.random.default_rng(7)
    with torch.no_grad(), FixedChoices():
        models.loss(model, parameters, *batch)
        for parameter, tensor in parameters.items():
            flat = tensor.view(-1)
            for i in pick.choice(flat.numel(), ENTRIES, replace=False):
                start, losses = flat[i].item(), []
                for offset in (2, 1, -1, -2):
                    flat[i] = start + offset * STEP
                    losses.append(models.loss(model, parameters, *batch).item())
                flat[i] = start
                slope = (8 * (losses[1] - losses[2]) - (losses[0] - losses[3])) / (12 * STEP)
                scale = np.abs(gradients[parameter]).max() + 1e-3
                worst = max(worst, abs(slope - gradients[parameter].flat[i]) / scale)
    assert worst < 1e-7, worst
    return f"largest relative error {worst:.1e}"


def check_optimizer(name):
    golden, _ = load(name)
    model, adamw = golden["model"], golden["adamw"]
    parameters = make_golden.make_parameters(model, golden["seed"])
    b1, b2, lr = adamw["beta1"], adamw["beta2"], adamw["lr"]
    m = {key: np.zeros(p.shape) for key, p in parameters.items()}
    v = {key: np.zeros(p.shape) for key, p in parameters.items()}
    start = {key: p.detach().numpy().copy() for key, p in parameters.items()}
    worst = 0.0
    for t, expected in enumerate(zip(golden["losses"], golden["grad_norms"])):
        loss = models.loss(model, parameters, *make_golden.step_inputs(model, t))
        grads = dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values()),
                                                         materialize_grads=True)))
        norm = math.sqrt(sum(float((g * g).sum()) for g in grads.values()))
        worst = max(worst, abs(loss.item() - expected[0]), abs(norm - expected[1]))
        for row in golden["parameters"]:
            key = row["name"]
            g = grads[key].numpy() * min(1.0, adamw["max_norm"] / (norm + 1e-6))
            w = parameters[key].detach().numpy()
            w -= lr * (adamw["weight_decay"] if row["decay"] else 0.0) * w
            m[key] = b1 * m[key] + (1 - b1) * g
            v[key] = b2 * v[key] + (1 - b2) * g * g
            bias1, bias2 = 1 - b1 ** (t + 1), 1 - b2 ** (t + 1)
            w -= lr * (m[key] / bias1) / (np.sqrt(v[key] / bias2) + adamw["eps"])
    for row in golden["parameters"]:
        change = parameters[row["name"]].detach().numpy() - start[row["name"]]
        worst = max(worst, abs(math.sqrt((change * change).sum()) - row["update_norm"]))
    assert worst < 1e-9, worst
    return f"largest error {worst:.1e}"


def plain_experts(model, p, name, row):
    """One row through its experts and the shared one."""
    moe = model["moe"]
    def run(fc1, fc2, width):
        y = fc1 @ row
        return fc2 @ (y[:width] / (1 + np.exp(-y[:width])) * y[width:])
    e, f, h = moe["num_experts"], moe["ffn_size"], model["hidden_size"]
    score = p[f"{name}.router.weight"] @ row
    order = sorted(range(e), key=lambda i: -score[i])
    chosen = order[:moe["top_k"]]
    share = np.exp(score[chosen]) / np.exp(score[chosen]).sum()
    y = run(p[f"{name}.shared.fc1.weight"], p[f"{name}.shared.fc2.weight"], moe["shared_ffn_size"])
    for i, weight in zip(chosen, share):
        y = y + weight * run(p[f"{name}.experts.fc1.weight"][2 * f * i:2 * f * (i + 1)],
                             p[f"{name}.experts.fc2.weight"][h * i:h * (i + 1)], f)
    return y, score[order[moe["top_k"] - 1]] - score[order[moe["top_k"]]]


def check_experts(name):
    model, worst, margins = models.MODELS[name], 0.0, []
    def checked(model, p, layer_name, x):
        nonlocal worst
        y = experts(model, p, layer_name, x)
        values = {key: value.detach().numpy() for key, value in p.items()}
        for row, found in zip(x.detach().flatten(0, -2).numpy(), y.detach().flatten(0, -2).numpy()):
            expected, margin = plain_experts(model, values, layer_name, row)
            worst = max(worst, relative_error(found, expected))
            margins.append(margin)
        return y
    experts, models.experts = models.experts, checked
    try:
        make_golden.train(model)
    finally:
        models.experts = experts
    assert margins and worst < 1e-12 and min(margins) > 1e-5, (worst, min(margins, default=0.0))
    return f"largest relative error {worst:.1e}, closest choice {min(margins):.1e}"


def hf_linear(target, p, name, rows=slice(None)):
    """Points at a Hugging Face Linear: (weight name, our name, rows, transposed)."""
    parts = [part for part in ("weight", "bias") if f"{name}.{part}" in p]
    return [(f"{target}.{part}", f"{name}.{part}", rows, False) for part in parts]


def hf_qkv(model, p, name, targets):
    """Three Linears that are row blocks of our qkv."""
    a, g, d = model["num_heads"], model["num_kv_heads"], model["head_dim"]
    edges = [0, a * d, (a + g) * d, (a + 2 * g) * d]
    return [pair for target, first, last in zip(targets, edges, edges[1:])
            for pair in hf_linear(target, p, name, slice(first, last))]


def hf_gpt2(model, p):
    from transformers import GPT2Config, GPT2LMHeadModel
    config = GPT2Config(vocab_size=model["vocab_size"], n_positions=model["seq_len"],
                        n_embd=model["hidden_size"], n_layer=model["num_layers"],
                        n_head=model["num_heads"], layer_norm_epsilon=model["norm_eps"],
                        activation_function="gelu_new", resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    pairs = [("transformer.wte.weight", "embed.token", slice(None), False),
             ("transformer.wpe.weight", "embed.position", slice(None), False)]
    pairs += hf_linear("transformer.ln_f", p, "head.norm")
    names = {"ln_1": "norm1", "attn.c_attn": "qkv", "attn.c_proj": "out", "ln_2": "norm2",
             "mlp.c_fc": "fc1", "mlp.c_proj": "fc2"}
    for l in range(model["num_layers"]):
        for theirs, ours in names.items():
            rows = hf_linear(f"transformer.h.{l}.{theirs}", p, f"layer.{l}.{ours}")
            pairs += [(*row[:3], row[0].endswith("weight") and "ln" not in theirs) for row in rows]
    return GPT2LMHeadModel(config), pairs, lambda net, x: net(input_ids=x).logits


def hf_llama(model, p):
    from transformers import LlamaConfig, LlamaForCausalLM
    config = LlamaConfig(vocab_size=model["vocab_size"], hidden_size=model["hidden_size"],
                         intermediate_size=model["ffn_size"], head_dim=model["head_dim"],
                         num_hidden_layers=model["num_layers"], rms_norm_eps=model["norm_eps"],
                         num_attention_heads=model["num_heads"],
                         num_key_value_heads=model["num_kv_heads"],
                         max_position_embeddings=model["seq_len"], tie_word_embeddings=False)
    pairs = [("model.embed_tokens.weight", "embed.token", slice(None), False),
             ("lm_head.weight", "head.weight", slice(None), False)]
    pairs += hf_linear("model.norm", p, "head.norm")
    f = model["ffn_size"]
    for l in range(model["num_layers"]):
        to, name = f"model.layers.{l}", f"layer.{l}"
        pairs += hf_qkv(model, p, f"{name}.qkv",
                        [f"{to}.self_attn.{x}_proj" for x in ("q", "k", "v")])
        pairs += hf_linear(f"{to}.self_attn.o_proj", p, f"{name}.out")
        pairs += hf_linear(f"{to}.mlp.gate_proj", p, f"{name}.fc1", slice(0, f))
        pairs += hf_linear(f"{to}.mlp.up_proj", p, f"{name}.fc1", slice(f, 2 * f))
        pairs += hf_linear(f"{to}.mlp.down_proj", p, f"{name}.fc2")
        pairs += hf_linear(f"{to}.input_layernorm", p, f"{name}.norm1")
        pairs += hf_linear(f"{to}.post_attention_layernorm", p, f"{name}.norm2")
    return LlamaForCausalLM(config), pairs, lambda net, x: net(input_ids=x).logits


def hf_bert(model, p):
    from transformers import BertConfig, BertForMaskedLM
    config = BertConfig(vocab_size=model["vocab_size"], hidden_size=model["hidden_size"],
                        num_hidden_layers=model["num_layers"], hidden_act="gelu_new",
                        num_attention_heads=model["num_heads"], intermediate_size=model["ffn_size"],
                        max_position_embeddings=model["seq_len"], layer_norm_eps=model["norm_eps"],
                        type_vocab_size=model["token_types"], hidden_dropout_prob=0,
                        attention_probs_dropout_prob=0, pad_token_id=None)
    tables = {"word": "token", "position": "position", "token_type": "token_type"}
    pairs = [(f"bert.embeddings.{theirs}_embeddings.weight", f"embed.{ours}", slice(None), False)
             for theirs, ours in tables.items()]
    pairs += hf_linear("bert.embeddings.LayerNorm", p, "embed.norm")
    names = {"attention.output.dense": "out", "attention.output.LayerNorm": "norm1",
             "intermediate.dense": "fc1", "output.dense": "fc2", "output.LayerNorm": "norm2"}
    for l in range(model["num_layers"]):
        to = f"bert.encoder.layer.{l}"
        pairs += hf_qkv(model, p, f"layer.{l}.qkv",
                        [f"{to}.attention.self.{x}" for x in ("query", "key", "value")])
        for theirs, ours in names.items():
            pairs += hf_linear(f"{to}.{theirs}", p, f"layer.{l}.{ours}")
    pairs += hf_linear("cls.predictions.transform.dense", p, "head.dense")
    pairs += hf_linear("cls.predictions.transform.LayerNorm", p, "head.norm")
    pairs.append(("cls.predictions.bias", "head.bias", slice(None), False))
    return BertForMaskedLM(config), pairs, lambda net, x: net(input_ids=x).logits


def hf_vit(model, p):
    from transformers import ViTConfig, ViTForImageClassification
    vit = model["vit"]
    config = ViTConfig(hidden_size=model["hidden_size"], num_hidden_layers=model["num_layers"],
                       num_attention_heads=model["num_heads"], intermediate_size=model["ffn_size"],
                       hidden_act="gelu_new", layer_norm_eps=model["norm_eps"],
                       image_size=vit["image_size"], patch_size=vit["patch_size"],
                       num_channels=vit["num_channels"], num_labels=vit["num_classes"],
                       hidden_dropout_prob=0, attention_probs_dropout_prob=0)
    net = ViTForImageClassification(config)
    known = dict(net.named_parameters())
    pairs = [("vit.embeddings.cls_token", "embed.class", slice(None), False),
             ("vit.embeddings.position_embeddings", "embed.position", slice(None), False)]
    pairs += hf_linear("vit.embeddings.patch_embeddings.projection", p, "embed.patch")
    pairs += hf_linear("vit.layernorm", p, "head.norm") + hf_linear("classifier", p, "head")
    old = any(key.startswith("vit.encoder.layer.") for key in known)
    names = ({"attention.output.dense": "out", "layernorm_before": "norm1",
              "layernorm_after": "norm2", "intermediate.dense": "fc1", "output.dense": "fc2"} if old
             else {"attention.o_proj": "out", "layernorm_before": "norm1",
                   "layernorm_after": "norm2", "mlp.fc1": "fc1", "mlp.fc2": "fc2"})
    qkv = ([f"attention.attention.{x}" for x in ("query", "key", "value")] if old
           else [f"attention.{x}_proj" for x in ("q", "k", "v")])
    for l in range(model["num_layers"]):
        to = f"vit.encoder.layer.{l}" if old else f"vit.layers.{l}"
        pairs += hf_qkv(model, p, f"layer.{l}.qkv", [f"{to}.{x}" for x in qkv])
        for theirs, ours in names.items():
            pairs += hf_linear(f"{to}.{theirs}", p, f"layer.{l}.{ours}")
    return net, pairs, lambda net, x: net(pixel_values=x).logits


# Builder and tolerance: Llama's RMSNorm and rotation go through float32 whatever the parameters.
HF_MODELS = {"gpt2": (hf_gpt2, 1e-12), "llama": (hf_llama, 1e-5), "bert": (hf_bert, 1e-12),
             "vit": (hf_vit, 1e-12)}


def check_hugging_face(name):
    try:
        import transformers
    except ImportError:
        return "skipped: transformers is not installed"
    if name not in HF_MODELS:
        return "skipped: transformers has no such model"
    golden, gradients = load(name)
    model = golden["model"]
    parameters = make_golden.make_parameters(model, golden["seed"])
    build, tolerance = HF_MODELS[name]
    net, pairs, forward = build(model, parameters)
    net = net.double().train()
    known = dict(net.named_parameters())
    assert set(known) == {pair[0] for pair in pairs}, set(known) ^ {pair[0] for pair in pairs}
    with torch.no_grad():
        for theirs, ours, rows, transposed in pairs:
            value = parameters[ours][rows]
            known[theirs].copy_((value.T if transposed else value).reshape(known[theirs].shape))
    inputs, targets = make_golden.step_inputs(model, 0)
    loss = F.cross_entropy(forward(net, inputs).flatten(0, -2), targets.flatten(), ignore_index=-1)
    loss.backward()
    found = {key: np.full(value.shape, np.nan) for key, value in gradients.items()}
    for theirs, ours, rows, transposed in pairs:
        grad = known[theirs].grad.numpy()
        grad = grad.T if transposed else grad
        found[ours][rows] = grad.reshape(found[ours][rows].shape)
    worst = max(relative_error(found[key], gradients[key]) for key in gradients)
    assert abs(loss.item() - golden["loss"]) < tolerance, (loss.item(), golden["loss"])
    assert worst < tolerance, worst
    return f"largest relative error {worst:.1e} (transformers {transformers.__version__})"


def main():
    torch.set_num_threads(1)
    checks = [("random numbers", check_random_numbers, ())]
    for name in models.MODELS:
        checks += [(f"{name}: finite differences", check_finite_differences, (name,)),
                   (f"{name}: optimizer", check_optimizer, (name,)),
                   (f"{name}: Hugging Face", check_hugging_face, (name,))]
        if models.MODELS[name]["moe"]["num_experts"] > 0:
            checks.append((f"{name}: experts", check_experts, (name,)))
    num_failed = 0
    for title, check, arguments in checks:
        try:
            result = check(*arguments)
        except AssertionError as error:
            num_failed += 1
            result = f"FAILED {error}"
        print(f"{title}: {result}")
    return 1 if num_failed else 0


if __name__ == "__main__":
    sys.exit(main())
