"""How the embedded reference models were trained, measured and described."""
