"""What can be done to a model: one file per family of interventions, and the registry that names them."""
