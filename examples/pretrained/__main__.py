"""A pretrained language model: checked, made smaller, trained, carried elsewhere."""

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import tyro

import rmda_jax as rj
from examples.carry.__main__ import NEEDED as EXPORT, check_installed
from examples.pretrained import campaign, model, shrinking, table
from examples.pretrained.errors import NotReadyError

NEEDED = ("gguf", "safetensors", "tokenizers", "torch", "transformers")


@dataclasses.dataclass(frozen=True)
class Check:
    """Compare the logits of a sentence with those of transformers in PyTorch."""

    def __call__(self) -> None:
        from examples.pretrained import check, weights

        print(check.agreement(weights.packaged()))


@dataclasses.dataclass(frozen=True)
class Rules:
    """Print the units of the first layers, and how a budget for them is written."""

    keep: float = 0.7
    """The share of the weights in units that the budget keeps."""
    layers: int = 4
    """Of how many layers; all layers are alike."""

    def __call__(self) -> None:
        from examples.pretrained import weights

        loaded = weights.load(weights.packaged())
        config, params = weights.first_layers(*loaded, self.layers)
        fn, shapes = model.function(config)
        print(shrinking.unit_rules(fn, shapes).report(params))
        print(
            f"\nrj.rmda(regularizer=rules, strength=rj.budget(weights={self.keep}, "
            "ramp_steps=...), ...)"
        )


@dataclasses.dataclass(frozen=True)
class Shrink:
    """Set the units of least norm to zero, without training, and remove them."""

    keep: float = 0.7
    """The share of the weights in units that is kept."""
    layers: int | None = None
    """Of a model of the first layers alone, which is quick; by default all."""
    where: str = "*"
    """A pattern of the leaves that may be shrunk, such as "*/mlp/*"."""
    per_layer: bool = True
    """Whether all layers keep that share of their own, and so stay alike."""
    carry: bool = True
    """Whether PyTorch computes the small model, too; its layers must be alike."""
    out: Path = Path("out/pretrained")
    """Where the small model is written, and what was measured."""

    def __call__(self) -> None:
        config, params, tokenizer, ids = pretrained(self.layers)
        fn, _ = model.function(config)
        params, found = shrinking.shrunk(
            fn,
            params,
            jnp.asarray(ids),
            self.keep,
            per_layer=self.per_layer,
            where=self.where,
        )
        print(shrinking.in_words(found))
        self.out.mkdir(parents=True, exist_ok=True)
        rj.shrink.save(self.out / "small.safetensors", params)
        if self.carry:
            from examples.pretrained import carry

            folder = self.out / "hugging_face"
            carry.write_folder(folder, params, config, tokenizer)
            found["carried"] = carry.difference(folder, fn, params, ids[:32])
            print(
                "transformers against smaller: largest difference of a logit "
                "{:.1e}, of logits up to {:.3g}".format(*found["carried"])
            )
        _ = (self.out / "results.json").write_text(json.dumps(found) + "\n")


@dataclasses.dataclass(frozen=True)
class Carry:
    """Write the model of ``shrink`` as StableHLO and ONNX, and run what was written."""

    out: Path = Path("out/pretrained")
    """Where ``shrink`` wrote it; what is written lies there, too."""
    tokens: int = 32
    """How many tokens are read at once."""
    repeats: int = 10
    """How often each runtime is timed."""

    def __call__(self) -> None:
        from examples.carry.table import HEAD
        from examples.pretrained import elsewhere

        for path in (self.out / elsewhere.PARAMS, self.out / elsewhere.FOLDER):
            if not path.exists():
                sys.exit(
                    f"Error: {path} does not exist. First make the model smaller: "
                    f"python -m examples.pretrained shrink --out {self.out}."
                )
        found = elsewhere.rows(self.out, self.tokens, self.repeats)
        print("\n".join([HEAD, *map(str, found)]))


@dataclasses.dataclass(frozen=True)
class Speed:
    """Compare tokens a second before and after, for a prompt and one by one."""

    keep: tuple[float, ...] = (0.7, 0.5)
    """The shares of the units that smaller models keep, in every layer."""
    layers: int | None = None
    """Of a model of the first layers alone, which is quick; by default all."""
    prompt: int = 128
    """How many tokens are read at once; the text has 298."""
    new: int = 8
    """How many tokens are made after them, one by one."""
    repeats: int = 5
    """How often each model is timed."""
    cpu_time: bool = False
    """Count the seconds of all threads, in place of a clock's: on shared machines."""

    def __call__(self) -> None:
        from examples.pretrained import speed

        config, params, _, ids = pretrained(self.layers)
        clock = time.process_time if self.cpu_time else time.perf_counter
        found = speed.measured(
            config,
            params,
            jnp.asarray(ids),
            self.keep,
            n_prompt=self.prompt,
            n_new=self.new,
            timer=rj.shrink.by_turns(self.repeats, clock),
        )
        print("\n".join([speed.HEAD, *(each.row(found[0]) for each in found)]))


def pretrained(layers: int | None) -> tuple[model.Config, Any, Any, np.ndarray]:
    """Return sizes, weights and tokenizer of the package, and the text in tokens."""
    import gguf

    from examples.pretrained import tokens, weights

    path = weights.packaged()
    config, params = weights.first_layers(*weights.load(path), layers)
    tokenizer = tokens.read_tokenizer(gguf.GGUFReader(path))
    ids = tokenizer.encode(shrinking.TEXT.read_text("utf-8")).ids
    return config, params, tokenizer, np.asarray(ids, np.int32)


Command = (
    Check
    | Rules
    | Shrink
    | Carry
    | Speed
    | campaign.Select
    | campaign.Train
    | table.Report
)
COMMANDS = {
    "check": Check,
    "rules": Rules,
    "shrink": Shrink,
    "carry": Carry,
    "speed": Speed,
    "select": campaign.Select,
    "train": campaign.Train,
    "report": table.Report,
}


def parse(args: Sequence[str] | None = None) -> Command:
    """Return the command that the arguments name."""
    return tyro.extras.subcommand_cli_from_dict(
        COMMANDS, args=args, prog="python -m examples.pretrained", description=__doc__
    )


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line."""
    command = parse(args)
    if isinstance(command, Shrink) and command.carry and not command.per_layer:
        sys.exit(
            "Error: `--no-per-layer` gives layers of different widths, for which a "
            "folder of Hugging Face has no place. Give `--no-carry`, too."
        )
    needed = getattr(command, "needed", NEEDED)
    check_installed(needed, 'pip install ".[cpu,examples,pretrained]"')
    if isinstance(command, Carry):
        install = 'pip install ".[cpu,examples,pretrained,export]"'
        check_installed(EXPORT, install)
    try:
        command()
    except NotReadyError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
