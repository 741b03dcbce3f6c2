"""Measures a pack on pictures and clips that it was not trained on."""
