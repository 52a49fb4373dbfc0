"""SmolLM2-135M from an index of packages: read, checked, made smaller, carried on."""
