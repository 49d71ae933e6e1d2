"""The state of a network: all that a forward may change, found, kept, replaced and put back."""
