"""Training the pretrained model to a budget, at a tiny size: texts, criteria, runs."""

import dataclasses
import io
import json
import tarfile
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.pretrained import (
    campaign,
    corpus,
    criteria,
    model,
    shrinking,
    table,
    training,
)
from examples.pretrained.errors import NotReadyError
from tests.examples.test_pretrained import CONFIG, TOKENS, random_params

pytestmark = pytest.mark.costly

# Texts.

TAGGED = """

\tThe/at jury's/nn$ foreman/nn ,/, (/( ``/`` no/at one/pn ''/'' )/) ,/, said/vbd ;/. ;/.
and/cc it/pps did/dod ?/. ?/.
'/' Well/uh '/' --/-- he/pps met/vbd Mr./np Fox/np Jr./np ./.


Merger/nn-hl and\\/or/cc-hl not/*-hl
"""


def test_tagged_words_become_running_text():
    assert corpus.running(TAGGED) == (
        'The jury\'s foreman, ("no one"), said; and it did? '
        "'Well' -- he met Mr. Fox Jr.\nMerger and\\/or not"
    )


def write_tarball(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            data = text.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def letters(text):
    """Encode letters as numbers, and nothing else."""
    return [ord(x) - ord("a") for x in text if x.islower()]


@pytest.fixture
def tarballs(tmp_path):
    """Twenty files, whose letter says which it is, not in the order of their names."""
    names = [f"package/c{section}{i:02d}" for section in "ab" for i in range(1, 11)]
    word = lambda i: f"{chr(ord('a') + i) * (7 + i)}/nn"
    files = {name: word(i) for i, name in enumerate(names)}
    files = dict(reversed(files.items())) | {"package/CONTENTS": "z" * 9}
    year = lambda y: (f"package/data/{y}_a_b_r.json", json.dumps({"text": "y" * 6}))
    addresses = dict([year(1999), year(2000), year(2021)])
    return (
        write_tarball(tmp_path / "brown.tgz", files),
        write_tarball(tmp_path / "sotu.tgz", addresses),
    )


def test_every_tenth_file_is_held_out_and_no_window_spans_two(tarballs):
    found = corpus.load(*tarballs, letters, length=2, n_measured=100)
    held_out, validation = {9, 19}, {4, 14}
    parts = {part: set(rows.ravel().tolist()) for part, rows in found._asdict().items()}
    assert parts == {
        "train": set(range(20)) - held_out - validation,
        "validation": validation,
        "brown": held_out,
        "sotu": {24},
    }
    for rows in found:
        assert rows.shape[1] == 3
        assert (rows == rows[:, :1]).all()
    of_file = lambda i: (7 + i) // 3
    assert len(found.brown) == of_file(9) + of_file(19)
    assert len(found.sotu) == 2 * 2  # two addresses since 2000
    assert (found.train[: of_file(0)] == 0).all()  # in the order of names


def test_few_windows_are_measured_at_even_distances(tarballs):
    rows = np.arange(10)[:, None]
    assert corpus.evenly(rows, 4).ravel().tolist() == [0, 3, 6, 9]
    assert len(corpus.load(*tarballs, letters, 2, n_measured=3).brown) == 3


def test_the_seed_says_the_order_and_no_window_comes_twice():
    rows = np.arange(20).reshape(10, 2)
    drawn = lambda seed: np.concatenate([*corpus.batches(rows, 5, 2, seed)])
    assert (drawn(0) == drawn(0)).all()
    assert (drawn(0) != drawn(1)).any()
    assert sorted(drawn(0)[:, 0]) == rows[:, 0].tolist()
    fewer = np.concatenate([*corpus.batches(rows, 2, 2, 0)])
    assert (fewer == drawn(0)[:4]).all()
    with pytest.raises(ValueError, match=r"`steps` must be at most 5, .* got 6"):
        _ = next(corpus.batches(rows, 6, 2, 0))


def test_wrong_texts_are_an_error(tarballs):
    brown, sotu = tarballs
    with pytest.raises(ValueError, match=r"got .*sotu\.tgz, which has none"):
        _ = corpus.read_brown(sotu)
    with pytest.raises(ValueError, match=r"got .*brown\.tgz, which has none"):
        _ = corpus.read_sotu(brown)
    with pytest.raises(ValueError, match=r"`length` must be less .* got 40"):
        _ = corpus.load(brown, sotu, letters, 40, 1)


# Criteria.

ONE_LAYER = dataclasses.replace(CONFIG, layers=1)


def one_layer():
    params = random_params()
    del params["block1"]
    return params


@pytest.fixture(scope="module")
def rules():
    return shrinking.unit_rules(*model.function(CONFIG))


def with_idle_units():
    """Return params whose largest units do nothing: one group of heads, three gated."""
    params = random_params()
    for i in range(2):
        a, m = params[f"block{i}"]["attention"], params[f"block{i}"]["mlp"]
        a["value"] = a["value"].at[:, 1].set(0.0)
        a["out"] = a["out"].at[1].multiply(9.0)
        m["gate"] = m["gate"].at[:, 2:5].set(0.0)
        m["up"] = m["up"].at[:, 2:5].multiply(9.0)
        m["down"] = m["down"].at[2:5].multiply(9.0)
    return params


@pytest.mark.not_daily
@pytest.mark.parametrize("name", criteria.CRITERIA)
def test_a_criterion_finds_the_units_that_matter(name, rules):
    params = with_idle_units()
    batches = [np.tile(TOKENS, (2, 1)), TOKENS[:, ::-1].repeat(2, 0)]
    scores = criteria.CRITERIA[name](CONFIG, params, batches)
    assert jax.tree.structure(scores) == jax.tree.structure(params)
    budget = shrinking.budget(0.7, per_layer=True)
    zeros = shrinking.zeroed(params, rules, budget, scores)
    for i in range(2):
        a, m = zeros[f"block{i}"]["attention"], zeros[f"block{i}"]["mlp"]
        heads = jnp.any(a["out"] != 0, (1, 2, 3))
        units = jnp.any(m["down"] != 0, 1)
        assert [int(heads.sum()), int(units.sum())] == [2, 7]
        # By magnitude they stay; the others see that they do nothing.
        assert bool(heads[1]) == (name == "magnitude")
        assert units[2:5].tolist() == 3 * [name == "magnitude"]
        before = params[f"block{i}"]
        for x, y in ((a["query"], before["attention"]["query"]),):
            assert (x[:, heads] == y[:, heads]).all()
        for kernel in ("gate", "up"):  # also of leaves that have no scores
            assert (m[kernel][:, units] == before["mlp"][kernel][:, units]).all()
            assert (m[kernel][:, ~units] == 0).all()


def test_taylor_is_what_a_small_weight_changes():
    with shrinking.float64():
        params = shrinking.in_float64(one_layer())
        small = params["block0"]["mlp"]["up"].at[3, 4].set(1e-5)
        none = small.at[3, 4].set(0.0)
        put = lambda x: (
            params
            | {
                "block0": params["block0"]
                | {"mlp": params["block0"]["mlp"] | {"up": x}}
            }
        )
        fn, _ = model.function(ONE_LAYER)
        loss = jax.jit(lambda x, rows: criteria.cross_entropy(fn, put(x), rows))
        batches = [TOKENS, TOKENS[:, ::-1]]
        found = criteria.taylor(ONE_LAYER, put(small), batches)
        changes = [loss(none, rows) - loss(small, rows) for rows in batches]
        expected = np.sqrt(np.mean(np.square(changes)))
        assert float(found["block0"]["mlp"]["up"][3, 4]) == pytest.approx(
            expected, rel=1e-4
        )


def test_wanda_is_weight_times_norm_of_what_it_multiplies():
    """In the first layer, after attention to a single token, and then to none."""
    params = random_params()
    block = jax.tree.map(np.asarray, params["block0"])
    rows = np.array([[3, 0], [7, 0]], np.int32)  # one token is seen
    x = np.asarray(params["embedding"])[[3, 7]]
    norm = lambda x, p: (
        x / np.sqrt((x**2).mean(-1, keepdims=True) + CONFIG.epsilon) * p["scale"]
    )
    found = criteria.wanda(CONFIG, params, [rows[:1], rows[1:]])["block0"]
    value = np.einsum(
        "td,dge->tge", norm(x, block["norm1"]), block["attention"]["value"]
    )
    expected = (
        np.abs(block["attention"]["out"])
        * (np.sqrt((value**2).sum(0))[:, None, :, None])
    )
    np.testing.assert_allclose(found["attention"]["out"], expected, rtol=1e-5)
    assert not np.any(found["attention"]["query"])

    params["block0"]["attention"]["out"] *= 0
    found = criteria.wanda(CONFIG, params, [rows])["block0"]
    h, m = norm(x, block["norm2"]), block["mlp"]
    gate = h @ m["gate"]
    units = gate / (1 + np.exp(-gate)) * (h @ m["up"])
    expected = np.abs(m["down"]) * np.sqrt((units**2).sum(0))[:, None]
    np.testing.assert_allclose(found["mlp"]["down"], expected, rtol=1e-5)


# Runs.


@pytest.fixture(scope="module")
def of():
    return training.dense(ONE_LAYER, one_layer())


def log_likelihoods(of, params, tokens):
    """Return those of all words at all positions, in float64."""
    logits = np.asarray(jax.jit(of.fn)(params, tokens), np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_the_loss_is_of_the_text_and_of_the_dense_model(of):
    params = jax.tree.map(lambda x: 0.5 * x, of.params)
    found, _ = of.gradient(params, of.params, TOKENS)
    ours, theirs = (
        log_likelihoods(of, p, TOKENS[:, :-1])[0] for p in (params, of.params)
    )
    text = -ours[np.arange(7), TOKENS[0, 1:]].mean()
    divergence = (np.exp(theirs) * (theirs - ours)).sum(-1).mean()
    assert divergence > 0.1
    assert float(found) == pytest.approx(text + divergence, rel=1e-5)


@pytest.fixture(scope="module")
def text():
    """Sentences that are learned in a few steps: each token is the last one plus 1."""
    first = np.random.default_rng(0).integers(0, 32, (64, 1))
    rows = ((first + np.arange(9)) % 32).astype(np.int32)
    return corpus.Corpus(rows[:48], rows[48:52], rows[52:58], rows[58:])


def run_of(method, **changes):
    rate = {"rmda": 0.3, "ramda": 1e-2}.get(method, 1e-2)
    run = training.Run(method, 0.7, 0, 12, rate, 1e-2, "", None, 4, 8, 6)
    if method in training.OWN_RATE:
        run = run._replace(penalty="l0")
    return run._replace(keep=1.0 if method == "dense" else 0.7, **changes)


DAILY = ("taylor", "rmda")  # zeros at once, and zeros in training


@pytest.mark.not_daily
@pytest.mark.parametrize(
    "method",
    [m if m in DAILY else pytest.param(m, marks=pytest.mark.long)
     for m in training.METHODS],
)  # fmt: skip
def test_a_method_ends_with_the_asked_sizes(method, of, text):
    params, found = training.trained(of, run_of(method), text, ("brown", "sotu"))
    dense = shrinking.count(of.params)
    if method == "dense":
        assert found["widths"] == [(3, 10)]
        assert (found["parameters"], found["zeros"]) == (dense, None)
        before = training.perplexity(of, of.params, text.brown, 4)
    else:
        assert found["widths"] == [(2, 7)]
        gone = 4 * 16 * (2 + 2 * 2) + 3 * 3 * 16
        assert found["parameters"] == dense - gone
        before = found["zeros"]["brown"]
    assert found["end"]["brown"] < before  # it learned, zeros or not
    again = training.perplexity(of, params, text.brown, batch=5)  # 5 and 1 windows
    assert again == pytest.approx(found["end"]["brown"], rel=1e-5)
    fresh = one_layer()
    jax.tree.map(np.testing.assert_array_equal, of.params, fresh)  # nothing is donated


@pytest.mark.not_daily
def test_l0_keeps_what_it_does_not_zero_and_the_group_lasso_hardly_any(of, text):
    """At a rate of almost 0 the zeros are those of magnitude, and the rest stays."""
    rows = lambda: corpus.batches(text.train, 12, 4, 0)
    run = run_of("rmda", rate=1e-6)
    found = training.zeros_of(of, run, text, rows())
    expected = training.zeros_of(of, run_of("magnitude"), text, rows())
    close = lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5)
    jax.tree.map(close, found, expected)
    lasso = training.zeros_of(of, run._replace(penalty="lasso"), text, rows())
    kernel = lambda params: params["block0"]["mlp"]["down"]
    np.testing.assert_array_equal(kernel(lasso) != 0, kernel(expected) != 0)
    shrunk = jnp.linalg.norm(kernel(lasso)) / jnp.linalg.norm(kernel(expected))
    assert shrunk < 0.5


def test_perplexities_of_the_pretrained_model_take_no_step(of, text):
    run = run_of("dense")._replace(method=training.PRETRAINED, steps=0)
    params, found = training.trained(of, run, text, ("brown",))
    assert params is of.params
    each = log_likelihoods(of, of.params, text.brown[:, :-1])
    chosen = np.take_along_axis(each, text.brown[:, 1:, None], axis=-1)
    assert found["end"]["brown"] == pytest.approx(np.exp(-chosen.mean()), rel=1e-5)


def test_a_loss_that_is_not_finite_ends_the_run(of, text):
    run = run_of("dense", recovery=float("nan"))
    with pytest.raises(training.DivergedError, match="the loss is nan at step 2"):
        _ = training.trained(of, run, text, ())


# The log.


@pytest.fixture
def done(monkeypatch):
    """Let runs do nothing; return those that would have been done."""
    runs = []

    def trained(of, run, text, parts):
        runs.append(run)
        if run.method == "dense" and run.rate == 1e-4:
            raise training.DivergedError("the loss is nan at step 3")
        # The largest rate is the best for taylor, the least for the others.
        sign = -1 if run.method == "taylor" else 1
        end = dict.fromkeys(parts, 50 + sign * 10 * run.rate + run.seed)
        zeros = dict.fromkeys(parts, 2e5)
        return None, {"zeros": zeros, "end": end, "parameters": 1234, "seconds": 5}

    monkeypatch.setattr(training, "trained", trained)
    return runs


def config_of(kind, tmp_path, methods, **changes):
    return kind(
        brown=tmp_path, sotu=tmp_path, methods=methods, folder=tmp_path, **changes
    )


def test_what_is_in_the_log_is_not_run_again(done, tmp_path, capsys):
    loads = []
    load = lambda: loads.append(None) or (None, None)
    methods = ("dense", "taylor", "rmda")
    select = config_of(campaign.Select, tmp_path, methods, keep=(0.7,))
    campaign.select(select, load)
    assert len(done) == 9
    assert {run.steps for run in done} == {25}
    assert {run.seed for run in done} == {campaign.SELECTION_SEED}
    assert {run.recovery for run in done if run.method == "rmda"} == {1e-3}  # taylor's
    train = config_of(campaign.Train, tmp_path, methods, keep=(0.7,), seeds=(0,))
    campaign.train(train, load)
    assert [(run.method, run.steps, run.rate, run.recovery) for run in done[9:]] == [
        ("pretrained", 0, 0.0, 0.0),
        ("dense", 100, 3.16e-4, 3.16e-4),  # not the one that diverged
        ("taylor", 100, 1e-3, 1e-3),
        ("rmda", 100, 0.0316, 1e-3),
    ]

    n_loads = len(loads)
    campaign.select(select, load)
    campaign.train(train, load)
    assert (len(done), len(loads)) == (13, n_loads)
    log = tmp_path / campaign.RESULTS
    _ = log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    campaign.train(
        config_of(campaign.Train, tmp_path, methods, keep=(0.7,), seeds=(0, 1)), load
    )
    assert [(run.method, run.seed) for run in done[13:]] == [
        ("rmda", 0), ("dense", 1), ("taylor", 1), ("rmda", 1)
    ]  # fmt: skip

    table.Report(tmp_path)()
    lines = capsys.readouterr().out.splitlines()[-4:]
    found = {line.split(" | ")[0]: line for line in lines}
    assert "| 50.5 ± 0.71 |" in found["| dense"]
    assert "| 0.001* | 2 | 1,234 | 2e+05 ± 0 | 50.49 ± 0.71 |" in found["| taylor"]
    assert "| 0.0316*, then 0.001 | 2 |" in found["| rmda, l0"]
    assert found["| pretrained"].startswith("| pretrained | 100% | 0 | - | 1 | 1,234 |")


def test_the_command_takes_all_methods():
    assert get_args(campaign.Method) == training.METHODS == (*campaign.GRIDS,)


def test_a_run_that_diverged_is_in_the_table(tmp_path):
    row = run_of("rmda", rate=0.1)._asdict() | {"diverged": "the loss is nan"}
    lines = table.table([row, row]).splitlines()  # of two processes
    assert lines[-1].startswith(
        "| rmda, l0 | 70% | 12 | 0.1, then 0.01 | 1, 1 diverged | -"
    )
    assert len({line.count("|") for line in lines}) == 1


def test_what_must_be_selected_before_is_named(done, tmp_path):
    load = lambda: (None, None)
    train = config_of(campaign.Train, tmp_path, ("wanda",), keep=(0.5,))
    with pytest.raises(NotReadyError, match=r"wanda at 0\.5 .* --methods wanda`"):
        campaign.train(train, load)
    select = config_of(campaign.Select, tmp_path, ("ramda",), keep=(0.5,))
    with pytest.raises(
        NotReadyError, match=r"taylor at 0\.5 .* got 0\. .*methods taylor`"
    ):
        campaign.select(select, load)
    assert done == []
    with pytest.raises(ValueError, match="`steps` must be at least 8, got 7"):
        _ = config_of(campaign.Train, tmp_path, ("dense",), steps=7)
    with pytest.raises(ValueError, match=r"`keep` must lie .* got \[70.0\]"):
        _ = config_of(campaign.Train, tmp_path, ("dense",), keep=(70.0,))


def test_all_rates_that_diverge_are_an_error(tmp_path):
    select = config_of(campaign.Select, tmp_path, ("dense",))
    rows = []
    for rate in campaign.GRIDS["dense"]:
        seed, sizes = campaign.SELECTION_SEED, select.rest("dense")
        run = training.Run("dense", 1.0, seed, 25, rate, rate, **sizes)
        rows.append(run._asdict() | {"diverged": "the loss is nan at step 3"})
    with pytest.raises(NotReadyError, match=r"all rates of dense at 1\.0 diverge"):
        _ = campaign.chosen(select, rows, "dense", 1.0)
