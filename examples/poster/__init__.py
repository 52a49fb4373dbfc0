"""The experiments of the RMDA poster (ICLR 2022), with one command each.

    python -m examples.poster rates lenet5/fashion_mnist rmda --epochs 5
    python -m examples.poster select lenet5/fashion_mnist rmda --epochs 30
    python -m examples.poster run lenet5/fashion_mnist rmda --epochs 30 --seeds 3
    python -m examples.poster path lenet5/fashion_mnist rmda --epochs 30
    python -m examples.poster report
    python -m examples.poster report --logs examples/poster/logs --out examples/poster

All they write is under ``out/poster``; the last one writes the page that is kept here.
`presets` says how each method trains on each task, and where every setting comes from;
`data`, `images` and `models` are what it trains with, `methods` makes the optimizer.
`train` trains several seeds and strengths at once; `runs` and `selection` are driven by
`driver`, and `logs` has what they leave behind. `report` makes tables of it, with the
figures of `results` beside the `published` ones.
"""
