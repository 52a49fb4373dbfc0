"""A pretrained language model: checked, its units, made smaller, trained."""

import dataclasses
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import tyro

import rmda_jax as rj
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
        import gguf

        from examples.pretrained import tokens, weights

        path = weights.packaged()
        config, params = weights.first_layers(*weights.load(path), self.layers)
        tokenizer = tokens.read_tokenizer(gguf.GGUFReader(path))
        text = tokenizer.encode(shrinking.TEXT.read_text("utf-8")).ids
        ids = np.asarray(text, np.int32)
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


Command = Check | Rules | Shrink | campaign.Select | campaign.Train | table.Report
COMMANDS = {"check": Check, "rules": Rules, "shrink": Shrink}
COMMANDS |= {"select": campaign.Select, "train": campaign.Train, "report": table.Report}


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
    for name in getattr(command, "needed", NEEDED):
        try:
            _ = importlib.import_module(name)
        except ImportError:
            sys.exit(
                f"Error: the package {name} is not installed. Run: "
                'pip install ".[cpu,examples,pretrained]".'
            )
    try:
        command()
    except NotReadyError as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
