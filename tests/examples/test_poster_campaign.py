"""A campaign does what is left, ends in time, and says what it cannot do."""

import dataclasses

import pytest

from examples.poster import campaign, driver, logs, runs
from examples.poster.__main__ import main
from examples.poster.driver import Options, RunError
from examples.poster.models import NETWORKS
from examples.poster.presets import preset
from tests.examples._poster import TinyNet, tiny_data

TASK = "vgg19/cifar10"
MOMENT = 1e-9  # minutes


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Let the presets of VGG19 train a tiny network on a tiny data set."""
    monkeypatch.setitem(NETWORKS, "vgg19", TinyNet)
    monkeypatch.setattr(runs, "load", lambda name, data_dir: tiny_data())
    monkeypatch.setattr(campaign, "SPECS", {"cifar10": tiny_data().spec})
    small = lambda *args: dataclasses.replace(preset(*args), batch_size=16)
    monkeypatch.setattr(driver, "preset", small)


@pytest.fixture
def options(tmp_path):
    return Options(epochs=3, logs=tmp_path / "logs", out=tmp_path)


def hold(methods, options):
    return campaign.campaign([TASK], methods, options, teraflops=1.0)


@pytest.mark.not_daily
def test_what_is_complete_is_not_repeated(options):
    before = hold(["dense", "rmda"], options)
    assert [row.epochs_done for row in before] == [0, 0]
    assert [row.is_measured for row in before] == [False, False]
    files = sorted(options.logs.iterdir())
    written = [file.read_bytes() for file in files]
    assert [logs.read(file).is_complete for file in files] == [True, True]
    after = hold(["dense", "rmda"], options)
    assert [row.hours_left for row in after] == [0, 0]
    assert [file.read_bytes() for file in files] == written


@pytest.mark.not_daily
def test_a_run_that_ends_in_time_goes_on_to_the_same_numbers(options):
    whole = dataclasses.replace(options, logs=options.logs / "whole", out=options.out)
    expected = logs.read(runs.run(TASK, "rmda", whole)).epochs
    limited = dataclasses.replace(options, out=options.out / "part", minutes=MOMENT)
    for done in (1, 2, 3):
        log = logs.read(runs.run(TASK, "rmda", limited))
        assert len(log.epochs) == done
    timeless = lambda epoch: {k: x for k, x in epoch.items() if k != "seconds"}
    assert list(map(timeless, log.epochs)) == list(map(timeless, expected))


def test_nothing_begins_after_the_end(options):
    _ = hold(["dense"], dataclasses.replace(options, minutes=MOMENT))
    assert not options.logs.exists()


def test_what_cannot_run_is_named_and_left_out(options, capsys):
    rows = hold(["rmda_l1", "dense"], options)
    assert "no strength is published or selected for rmda_l1" in rows[0].problem
    assert [file.name for file in options.logs.iterdir()] == [
        "vgg19-cifar10-dense-3ep-seeds0-0.jsonl"
    ]


def test_an_estimate_is_in_proportion_to_seeds_and_operations(options):
    one = hold(["dense"], options)[0]
    two = dataclasses.replace(options, seeds=2)
    (row,) = campaign.campaign(
        [TASK], ["dense"], two, teraflops=0.5, only_estimate=True
    )
    assert row.seconds == pytest.approx(4 * one.seconds)
    assert one.seconds > 0
    assert not list(options.logs.glob("*seeds0-1*"))


def test_minutes_are_positive(options):
    with pytest.raises(RunError, match="--minutes must be positive, got -1"):
        _ = hold(["dense"], dataclasses.replace(options, minutes=-1.0))


def test_the_command_takes_the_arguments(options):
    given = ["--logs", str(options.logs), "--out", str(options.out), "--epochs", "1"]
    main(["campaign", "--tasks", TASK, "--methods", "dense", "--minutes", "9", *given])
    assert len(list(options.logs.iterdir())) == 1
