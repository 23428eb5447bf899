"""The paper's figures, ours beside them."""
