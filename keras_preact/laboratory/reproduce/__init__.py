"""The paper's numbers, ours beside them."""
