"""The named factories: one module for each kind of unit or structure."""
