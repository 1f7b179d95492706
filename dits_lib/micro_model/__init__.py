"""How the two micro base models are made: scripted agents, training from scratch, gates."""
