"""What may stand where a file should: pipes, sockets, links, folders, noise."""

import os
import socket
from pathlib import Path

DEEP = "[" * 10**5  # JSON that is nested more deeply than Python's stack


def pipe(path):
    os.mkfifo(path)


def endless(path):
    path.symlink_to("/dev/zero")


def listening(path):
    here = Path.cwd()
    os.chdir(path.parent)  # the names of sockets are short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def broken(path):
    path.symlink_to(path.parent / "nowhere")


def folder_there(path):
    path.mkdir()


def noise_there(path):
    path.write_bytes(b"garbage" * 99)
