"""The network and its training; part of the checkout, never of the wheel."""
