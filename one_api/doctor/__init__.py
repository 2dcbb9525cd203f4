"""Whether the gateway can work on this machine: what ``doctor`` examines. It is imported by the command line only."""
