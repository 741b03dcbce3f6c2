"""Trains the default pack: from free photographs to a folder that `livediffusion run --model` takes."""
