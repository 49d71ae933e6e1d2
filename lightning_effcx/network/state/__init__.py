"""The state of a network: what its forward may change, kept, lent and put back."""
