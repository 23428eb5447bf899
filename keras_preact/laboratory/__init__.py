"""What people study with the networks: analysis of signals and gradients, sweeps, the tables of the paper."""
