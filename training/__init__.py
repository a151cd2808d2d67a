"""Training and evaluation of the network; part of the checkout, not of the wheel."""
