"""Installing without internet; part of the checkout, never of the wheel."""
