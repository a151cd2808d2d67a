"""What platforms agree on with the containers that they start."""
