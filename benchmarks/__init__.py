"""Speed and memory, side by side; part of the checkout, never of the wheel."""
