"""The pretrained language model, at a tiny size: what is read, computed and written."""

import dataclasses
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from examples.pretrained import __main__ as command, carry, model, shrinking, speed
from rmda_jax import shrink

CONFIG = model.Config(
    vocabulary=32,
    width=16,
    layers=2,
    groups=3,
    queries=2,
    size=4,
    hidden=10,
    rope_base=1e4,
    epsilon=1e-5,
    context=64,
)
TOKENS = np.array([[3, 1, 4, 1, 5, 9, 2, 6]], np.int32)


def random_params(seed=0):
    _, shapes = model.function(CONFIG)
    rng = np.random.default_rng(seed)
    draw = lambda x: jnp.asarray(rng.normal(0.0, 0.4, x.shape), jnp.float32)
    return jax.tree.map(draw, shapes)


def plain(params, tokens):
    """Compute the logits of a sequence in float64, head by head and pair by pair."""
    c = CONFIG
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    norm = lambda x, p: (
        x / np.sqrt((x**2).mean(-1, keepdims=True) + c.epsilon) * p["scale"]
    )
    x = params["embedding"][tokens]
    n, half = len(tokens), c.size // 2

    def turned(heads):
        heads = heads.copy()
        for t in range(n):
            for i in range(half):
                angle = t * c.rope_base ** (-2 * i / c.size)
                turn = np.exp(1j * angle) * (heads[t, i] + 1j * heads[t, i + half])
                heads[t, i], heads[t, i + half] = turn.real, turn.imag
        return heads

    for layer in range(c.layers):
        p = params[f"block{layer}"]
        a, h = p["attention"], norm(x, p["norm1"])
        for g in range(c.groups):
            key, value = turned(h @ a["key"][:, g]), h @ a["value"][:, g]
            for q in range(c.queries):
                scores = turned(h @ a["query"][:, g, q]) @ key.T / np.sqrt(c.size)
                weights = np.exp(scores) * np.tri(n)
                weights /= weights.sum(-1, keepdims=True)
                x = x + weights @ value @ a["out"][g, q]
        m, h = p["mlp"], norm(x, p["norm2"])
        gate = h @ m["gate"]
        x = x + gate / (1 + np.exp(-gate)) * (h @ m["up"]) @ m["down"]
    return norm(x, params["norm"]) @ params["embedding"].T


def test_the_model_is_that_of_plain_numpy():
    params = random_params()
    fn, _ = model.function(CONFIG)
    expected = plain(params, TOKENS[0])
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        jax.jit(fn)(params, TOKENS)[0], expected, atol=3e-6 * scale
    )


@pytest.fixture(scope="module")
def rules():
    return shrinking.unit_rules(*model.function(CONFIG))


def test_groups_of_heads_and_gated_units_have_rules(rules):
    expected = []
    for i in range(2):
        names = ("key", "out", "query", "value")
        expected.append(tuple(f"block{i}/attention/{n}" for n in names))
        expected.append(tuple(f"block{i}/mlp/{n}" for n in ("down", "gate", "up")))
    assert [rule.pattern for rule in rules.rules] == expected
    assert sum(line.endswith(": iota") for line in rules.left_out) == 2  # RoPE's pairs


def norms(params, layer):
    """Return the norms of a layer's groups of heads, and of its gated units."""
    a, m = params[f"block{layer}"]["attention"], params[f"block{layer}"]["mlp"]
    moved = [a["out"], *(jnp.moveaxis(a[n], 1, 0) for n in ("key", "query", "value"))]
    of = lambda arrays: np.sqrt(
        sum(np.square(x.reshape(len(x), -1)).sum(1) for x in arrays)
    )
    return of(moved), of([m["down"], m["gate"].T, m["up"].T])


def test_the_least_groups_become_zero_and_the_others_stay(rules):
    params = random_params()
    zeros = shrinking.zeroed(params, rules, shrinking.budget(0.7, per_layer=True))
    for i in range(2):
        for before, after, kept in zip(
            norms(params, i), norms(zeros, i), (2, 7), strict=True
        ):
            left = np.sort(np.argsort(before)[-kept:])
            assert np.flatnonzero(after).tolist() == left.tolist()
            assert (after[left] == before[left]).all()
    assert (zeros["embedding"] == params["embedding"]).all()


@pytest.mark.long
def test_all_layers_together_keep_a_share_of_the_weights(rules):
    params = random_params()
    zeros = shrinking.zeroed(params, rules, shrinking.budget(0.7, per_layer=False))
    in_units = lambda p: sum(
        np.count_nonzero(x)
        for i in range(2)
        for name in ("attention", "mlp")
        for x in p[f"block{i}"][name].values()
    )
    largest = 4 * 16 * (2 + 2 * 2)  # weights of a group of heads
    assert abs(in_units(zeros) - 0.7 * in_units(params)) <= largest / 2


@pytest.fixture(scope="module")
def shrunk():
    fn, _ = model.function(CONFIG)
    tokens = jnp.asarray(TOKENS[0])
    return shrinking.shrunk(fn, random_params(), tokens, 0.7, per_layer=True)


@pytest.mark.long
def test_the_small_model_is_the_zeroed_one(shrunk):
    small, found = shrunk
    assert found["widths"] == [[2, 7], [2, 7]]
    assert found["difference"] <= 1e-5 * found["scale"]
    assert found["difference_in_float64"] <= 1e-13 * found["scale"]
    before, after = found["parameters"]
    assert before - after == 2 * (4 * 16 * (2 + 2 * 2) + 3 * 3 * 16)
    assert after == sum(x.size for x in jax.tree.leaves(small))
    _, zeros, smaller = found["perplexity"]
    assert smaller == pytest.approx(zeros, rel=1e-5)
    assert "2 x 2, 7" in shrinking.in_words(found)


def test_perplexity_is_that_of_the_likelihoods():
    params = random_params()
    fn, _ = model.function(CONFIG)
    found = shrinking.perplexity(fn, params, jnp.asarray(TOKENS[0]))
    logits = plain(params, TOKENS[0])[:-1]
    chosen = logits[np.arange(7), TOKENS[0, 1:]]
    expected = np.exp(np.mean(np.log(np.exp(logits).sum(-1)) - chosen))
    assert found == pytest.approx(expected, rel=1e-5)


def test_steps_with_a_cache_are_the_whole_sequence():
    params = cut(random_params(), 1, 2, 7)  # layers of different widths
    tokens = jnp.concatenate([TOKENS, TOKENS[:, ::-1]])
    fn, _ = model.function(CONFIG)
    expected = jax.jit(fn)(params, tokens)
    step = jax.jit(model.stepper(CONFIG))
    caches = model.empty_caches(params, batch=2, context=9)
    assert caches[1][0].shape == (2, 2, 9, 4)
    logits, caches = step(params, tokens[:, :5], caches, 0)
    for i in range(5, 8):
        assert_close(logits, expected[:, i - 1])
        logits, caches = step(params, tokens[:, i : i + 1], caches, i)
    assert_close(logits, expected[:, 7])


def assert_close(actual, expected):
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=3e-6 * np.abs(expected).max()
    )


def test_decoding_makes_the_most_likely_tokens():
    params, prompt = random_params(), jnp.asarray(TOKENS)
    _, decode = speed.calls(CONFIG, params, prompt, 3)
    made = decode()
    tokens = jnp.concatenate([prompt, made], axis=1)
    logits = jax.jit(model.function(CONFIG)[0])(params, tokens)
    assert made.tolist() == logits[:, -4:-1].argmax(-1).tolist()


def test_speeds_are_compared_round_by_round():
    of = lambda title, seconds: speed.Speed(
        title, 1000, 4000, np.array(seconds), np.array(seconds) / 2, None
    )
    dense, small = of("dense", [1.0, 2.0, 4.0]), of("small", [0.5, 0.5, 4.0])
    assert dense.row(dense) == "| dense | 1,000 | 4,000 | 0.5 | 1 | - |"
    assert "| 2 (2.00 x) | 4 (2.00 x) |" in small.row(dense)
    assert speed.HEAD.count("|") - 7 == small.row(dense).count("|")


@pytest.mark.long
def test_speeds_of_the_small_models_are_measured():
    arguments = {"n_prompt": 5, "n_new": 2, "timer": shrink.by_turns(1)}
    text = jnp.asarray(TOKENS[0])
    dense, small = speed.measured(CONFIG, random_params(), text, [0.7], **arguments)
    assert small.title == "70% of the units"
    assert dense.parameters > small.parameters
    assert dense.bytes - small.bytes >= 4 * (dense.parameters - small.parameters) - 100
    assert small.difference.max_abs <= 1e-5 * small.difference.scale
    with pytest.raises(ValueError, match="from 1 to the 8 tokens of the text, got 9"):
        _ = speed.measured(CONFIG, {}, text, [], **arguments | {"n_prompt": 9})


def cut(params, layer, groups, hidden):
    """Return params with the first groups of heads and gated units of a layer."""
    params = jax.tree.map(lambda x: x, params)
    a, m = params[f"block{layer}"]["attention"], params[f"block{layer}"]["mlp"]
    a |= {name: a[name][:, :groups] for name in ("query", "key", "value")}
    a["out"] = a["out"][:groups]
    m |= {"gate": m["gate"][:, :hidden], "up": m["up"][:, :hidden]}
    m["down"] = m["down"][:hidden]
    return params


def test_a_folder_has_a_row_for_each_output(tmp_path):
    params = cut(cut(random_params(), 0, 2, 7), 1, 2, 7)
    tokenizer = types.SimpleNamespace(save=lambda path: None)
    carry.write_folder(tmp_path, params, CONFIG, tokenizer)
    config = json.loads((tmp_path / "config.json").read_text())
    sizes = ("num_key_value_heads", "num_attention_heads", "head_dim")
    assert [config[name] for name in sizes] == [2, 4, 4]
    assert [config[name] for name in ("intermediate_size", "hidden_size")] == [7, 16]
    smaller = dataclasses.replace(CONFIG, groups=2, hidden=7)
    assert carry.read_config(tmp_path) == smaller
    arrays = load_file(tmp_path / "model.safetensors")
    attention = params["block1"]["attention"]
    row = arrays["model.layers.1.self_attn.q_proj.weight"][(1 * 2 + 1) * 4 + 3]
    assert row.tolist() == attention["query"][:, 1, 1, 3].tolist()
    column = arrays["model.layers.1.self_attn.o_proj.weight"][:, (1 * 2 + 0) * 4 + 2]
    assert column.tolist() == attention["out"][1, 0, 2].tolist()
    assert arrays["model.layers.0.mlp.down_proj.weight"].shape == (16, 7)


def test_layers_of_different_widths_are_an_error(tmp_path):
    params = cut(random_params(), 1, 2, 7)
    with pytest.raises(ValueError, match=r"got \[\(2, 7\), \(3, 10\)\]\. Shrink them"):
        carry.write_folder(tmp_path / "folder", params, CONFIG, None)
    assert not (tmp_path / "folder").exists()


@pytest.mark.long
def test_transformers_computes_the_small_model(tmp_path):
    for name in ("torch", "transformers"):
        _ = pytest.importorskip(name)
    params = cut(cut(random_params(), 0, 2, 7), 1, 2, 7)
    carry.write_folder(
        tmp_path, params, CONFIG, types.SimpleNamespace(save=lambda path: None)
    )
    fn, _ = model.function(CONFIG)
    difference, scale = carry.difference(tmp_path, fn, params, TOKENS[0])
    assert difference <= 1e-5 * scale


# What GGUF keeps, where its package is.


def interleaved(rows, heads):
    """Reorder rows as the converters to GGUF do: the halves of a head become pairs."""
    size = len(rows) // heads
    order = [h * size + i + a * size // 2 for h in range(heads)
             for i in range(size // 2) for a in range(2)]  # fmt: skip
    return rows[order]


def write_gguf(path, params):
    gguf = pytest.importorskip("gguf")
    writer, c = gguf.GGUFWriter(path, "llama"), CONFIG
    writer.add_block_count(c.layers)
    writer.add_context_length(c.context)
    writer.add_feed_forward_length(c.hidden)
    writer.add_head_count(c.groups * c.queries)
    writer.add_head_count_kv(c.groups)
    writer.add_key_length(c.size)
    writer.add_key_length(c.size)
    writer.add_rope_freq_base(c.rope_base)
    writer.add_layer_norm_rms_eps(c.epsilon)
    arrays = carry.hugging_face_arrays(params)
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "model.layers.": "blk.",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.o_proj": "attn_output",
    }
    names |= {f"self_attn.{x}_proj": f"attn_{x}" for x in "qkv"}
    names |= {f"mlp.{x}_proj": f"ffn_{x}" for x in ("gate", "up", "down")}
    for name, x in arrays.items():
        heads = {"q_proj": c.groups * c.queries, "k_proj": c.groups}
        for part, n in heads.items():
            x = interleaved(x, n) if part in name else x
        for old, new in names.items():
            name = name.replace(old, new)
        writer.add_tensor(name, np.ascontiguousarray(x))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_file_is_read_by_the_names_of_the_model(tmp_path):
    _ = pytest.importorskip("gguf")
    from examples.pretrained import weights

    params = random_params()
    write_gguf(tmp_path / "tiny.gguf", params)
    config, read = weights.load(tmp_path / "tiny.gguf")
    assert dataclasses.replace(config, epsilon=1e-5) == CONFIG
    assert config.epsilon == pytest.approx(1e-5)
    jax.tree.map(np.testing.assert_array_equal, read, params)
    small, first = weights.first_layers(config, read, 1)
    assert small.layers == 1
    assert sorted(first) == ["block0", "embedding", "norm"]
    with pytest.raises(ValueError, match="`layers` must be from 1 to 2, got 3"):
        _ = weights.first_layers(config, read, 3)


def test_four_bits_are_a_scale_and_an_offset():
    gguf = pytest.importorskip("gguf")
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, 32).astype(np.uint8)
    scale, offset = np.float16(0.125), np.float16(-0.75)
    packed = codes[:16] | codes[16:] << 4  # the low halves first
    block = np.concatenate([np.array([scale, offset]).view(np.uint8), packed])
    found = gguf.dequantize(block[None], gguf.GGMLQuantizationType.Q4_1)
    assert found[0].tolist() == (codes * 0.125 - 0.75).tolist()


def test_digits_are_apart_and_other_text_is_in_pairs():
    _ = pytest.importorskip("gguf"), pytest.importorskip("tokenizers")
    from examples.pretrained import tokens

    field = lambda x: types.SimpleNamespace(contents=lambda: x)
    fields = {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": ["<|end|>", "1", "2", "a", "b", "Ġ", "ab", "Ġab", "12"],
        "token_type": [3, 1, 1, 1, 1, 1, 1, 1, 1],
        "merges": ["a b", "Ġ ab", "1 2"],
    }
    of = lambda fields: types.SimpleNamespace(
        fields={f"tokenizer.ggml.{name}": field(x) for name, x in fields.items()}
    )
    tokenizer = tokens.read_tokenizer(of(fields))
    assert tokenizer.encode("ab ab12<|end|>").ids == [6, 7, 1, 2, 0]
    assert tokenizer.decode([6, 7, 1, 2]) == "ab ab12"
    with pytest.raises(ValueError, match=r"got \('gpt2', 'llama-bpe'\)"):
        _ = tokens.read_tokenizer(of(fields | {"pre": "llama-bpe"}))


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(command.sys.modules, "gguf", None)
    with pytest.raises(SystemExit, match=r"package gguf .*\[cpu,examples,pretrained\]"):
        command.main(["check"])
    with pytest.raises(SystemExit, match=r"different widths.* Give `--no-carry`, too"):
        command.main(["shrink", "--no-per-layer"])


def test_what_was_not_made_smaller_cannot_be_carried(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "check_installed", lambda names, install: None)
    monkeypatch.setitem(command.sys.modules, "examples.pretrained.weights", weights())
    with pytest.raises(SystemExit, match=r"not exist\. .* shrink --out .*folder\.$"):
        command.main(["carry", "--out", str(tmp_path / "folder")])


def weights():
    """Return what stands for the module of that name, which imports gguf."""
    return types.SimpleNamespace(MissingWeightsError=FileNotFoundError)
