"""From a trained checkpoint to a model bundle; part of the checkout, never of the wheel."""
