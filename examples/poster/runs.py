"""A run with one strength, and a path of many: logged, and resumed if cut off."""

import dataclasses
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import jax
from flax import nnx

import rmda_jax as rj
from examples.poster import logs
from examples.poster.data import load
from examples.poster.driver import (
    Deadline,
    Options,
    RunError,
    console,
    settings_for,
    train,
    trainer_for,
)
from examples.poster.logs import Checkpoints, Json
from examples.poster.presets import Preset, strength_grid
from examples.poster.selection import selected_strength


def run(
    task: str,
    method: str,
    options: Options,
    *,
    strength: float | None = None,
    selected: bool = False,
    first_seed: int = 0,
    save: Path | None = None,
) -> Path:
    """Train by one method with one strength, and return the log.

    The strength is the one given, or the published one, or the one selected; with
    `selected`, the latter goes before what was published. Then `save` gets what the
    first member ended with, for `rmda_jax.shrink.load`.
    """
    settings = _settings(task, method, options, strength, selected)
    seeds = range(first_seed, first_seed + options.seeds)
    log = _train_all("run", settings, seeds, [settings.strength], options)
    if save is not None:
        _save(settings, seeds, options, save)
    return log


def log_of(task: str, method: str, options: Options) -> Path:
    """Return where `run` with these arguments writes, whether or not it has begun."""
    settings = _settings(task, method, options)
    config = _config(
        "run", settings, range(options.seeds), [settings.strength], options.dtype
    )
    return options.logs / f"{_name(config)}.jsonl"


def _settings(
    task: str,
    method: str,
    options: Options,
    strength: float | None = None,
    selected: bool = False,
) -> Preset:
    """Return the settings of a run, with the strength that `run` says."""
    settings = settings_for(task, method, options)
    if strength is not None:
        return settings.changed("given", strength=strength)
    if settings.strength is None or selected:
        chosen, source = selected_strength(settings, options.logs)
        return settings.changed(source, strength=chosen)
    return settings


def path(
    task: str, method: str, options: Options, strengths: Sequence[float] = ()
) -> Path:
    """Train a whole front of strengths in one program, and return the log."""
    settings = settings_for(task, method, options)
    if method == "rigl":
        raise RunError(
            "rigl cannot train several strengths at once: they decide how many weights "
            "there are. Call `run` with --strength for each."
        )
    strengths = strengths or strength_grid(settings)
    return _train_all("path", settings, range(options.seeds), strengths, options)


def _train_all(
    kind: str,
    settings: Preset,
    seeds: Sequence[int],
    strengths: Sequence[float],
    options: Options,
) -> Path:
    deadline = Deadline(options.minutes)
    config = _config(kind, settings, seeds, strengths, options.dtype)
    name = _name(config)
    log = options.logs / f"{name}.jsonl"
    resumes = not options.fresh and bool(logs.read_lines(log))
    if resumes and _is_complete(log, config):
        console.print(f"{log} is complete.")
        return log
    data = load(settings.dataset, options.data_dir)
    trainer = trainer_for(settings, data, seeds, strengths, options)
    members = trainer.init()
    with closing(Checkpoints(options.out / name)) as checkpoints:
        done = checkpoints.epoch
        if resumes and 0 < done <= len(logs.read(log).epochs):
            members = checkpoints.restore(members)
            logs.truncate(log, done)
        else:
            done = 0
            checkpoints.clear()
            logs.start(log, config)
        saved = time.perf_counter()
        for epoch, trained, record in train(trainer, members, done, name):
            logs.append(log, record)
            # The first epoch has compiled: it does not tell how long others take.
            first = epoch == done + 1
            ends = not deadline.allows(0.0 if first else record["seconds"])
            limited = first and options.minutes is not None
            due = time.perf_counter() - saved >= options.checkpoint_every
            if due or ends or limited or epoch == settings.epochs:
                checkpoints.save(epoch, trained)
                saved = time.perf_counter()
            if ends:
                break
    return log


def _save(settings: Preset, seeds: Sequence[int], options: Options, file: Path) -> None:
    """Write structured params and batch statistics that a run ended with."""
    strengths = [settings.strength]
    name = _name(_config("run", settings, seeds, strengths, options.dtype))
    data = load(settings.dataset, options.data_dir)
    trainer = trainer_for(settings, data, seeds, strengths, options)
    with closing(Checkpoints(options.out / name)) as checkpoints:
        if checkpoints.epoch != settings.epochs:
            raise RunError(
                f"{options.out / name} has no checkpoint of the last epoch: there is "
                "nothing to save. Pass --fresh to train anew."
            )
        members = checkpoints.restore(trainer.init())
    state = nnx.merge_state(trainer.program.measure(members)[0], members.batch_stats)
    file.parent.mkdir(parents=True, exist_ok=True)
    rj.shrink.save(file, jax.tree.map(lambda x: x[0], state))
    console.print(f"Saved {file}.")


def _is_complete(log: Path, config: Json) -> bool:
    """Whether there is nothing left to do; an error if it is another run's log."""
    older = logs.read(log)
    # A run may go on with another device or version of JAX than it began with.
    if older.config | {"environment": config["environment"]} != config:
        raise RunError(
            f"{log} has other settings. Pass --fresh to start anew, or another folder "
            "as --logs."
        )
    return older.is_complete


def _name(config: Json) -> str:
    """Return what tells a run from the others in its folder."""
    seeds, strengths = config["seeds"], config["strengths"]
    parts = [] if config["kind"] == "run" else [config["kind"]]
    parts += [config["task"].replace("/", "-"), config["method"]]
    if config["method"] != "dense":
        parts.append("_".join(dict.fromkeys(f"{strengths[i]:.3g}" for i in (0, -1))))
    if config["sources"].get("learning_rate") == "given":
        parts.append(f"rate{config['settings']['learning_rate']:g}")
    parts += [f"{config['epochs']}ep", f"seeds{seeds[0]}-{seeds[-1]}"]
    if config["dtype"] != "float32":
        parts.append(config["dtype"])
    return "-".join(parts)


def _config(
    kind: str,
    settings: Preset,
    seeds: Sequence[int],
    strengths: Sequence[float],
    dtype: str,
) -> Json:
    """Return the first line of the log."""
    fields = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
    }
    fields["milestones"] = list(settings.milestones)
    sources = dict(fields.pop("sources"))
    del fields["strength"]
    shown = {name: fields.pop(name) for name in ("task", "method", "epochs")}
    return {
        "kind": kind,
        **shown,
        "seeds": list(seeds),
        "strengths": [float(strength) for strength in strengths],
        "dtype": dtype,
        "settings": fields,
        "sources": sources,
        "environment": {
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
        },
    }
