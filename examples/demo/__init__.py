"""A dense and six sparse methods on small images, side by side: ``make demo``."""
