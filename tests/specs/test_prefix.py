"""Pytree prefixes of regularizers, and what is taken for one by mistake."""

import re

import jax.numpy as jnp
import pytest

import rmda_jax as rj

PARAMS = {"conv": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}


@pytest.mark.parametrize(
    "rules",
    [
        [("*/kernel", rj.l1())],
        [["*/kernel", rj.l1()]],
        (("*/bias", None), ("*/kernel", rj.l1(), 0.5)),
        ("*/kernel", rj.l1()),
        [(("conv/kernel", "conv/bias"), rj.tied_group_lasso((-1, -1)))],
    ],
    ids=str,
)
def test_list_of_rules_is_told_to_be_a_map(rules):
    message = "`regularizer` must not be bare rules, got .* rj.RegularizerMap"
    for use in (rj.rmda(0.1, rules, 0.1).init, rj.proxgen(0.1, rules, 0.1).init):
        with pytest.raises(TypeError, match=message):
            use(PARAMS)


def test_dict_of_patterns_is_told_to_be_a_map():
    message = "(?s)is no prefix of the params, .* by patterns, pass rj.RegularizerMap"
    with pytest.raises(ValueError, match=message):
        rj.rmda(0.1, {"*/kernel": rj.l1()}, 0.1).init(PARAMS)


def test_lists_that_are_no_rules_are_prefixes():
    tx = rj.rmda(0.1, [rj.l1(), (None, rj.l1())], 0.1)
    leaf = jnp.ones(2)
    assert tx.init([leaf, (leaf, leaf)]).count == 0


@pytest.mark.parametrize("name", ["layers[0]", "a*b", "what?"])
def test_names_with_special_characters_are_told_to_need_brackets(name):
    tree = {name: {"w": jnp.ones((2, 2))}}
    escaped = name[:-3] + "[[]0]" if "[" in name else re.sub(r"([*?])", r"[\1]", name)
    message = (
        "Patterns are shell globs in which * crosses /. A [, * or ? that belongs to a "
        f"name stands in brackets: '{escaped}/w' matches {name}/w."
    )
    bad = rj.RegularizerMap([("layers[0]/w" if "[" in name else "none", rj.l1())])
    with pytest.raises(ValueError, match=re.escape(message)):
        bad.resolve(tree)
    assert rj.RegularizerMap([(f"{escaped}/w", rj.l1())]).resolve(tree)[0].regularizer


def test_plain_names_are_told_nothing_of_brackets():
    with pytest.raises(ValueError, match=r"in which \* crosses /\.$"):
        rj.RegularizerMap([("none", rj.l1())]).resolve(PARAMS)
