"""See how complex the function is that a network's weights represent, while Lightning trains it."""

__version__ = "0.1.0"
