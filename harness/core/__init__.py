"""What a method may lean on: data, networks, loops, clock, seeds; it knows of no trials and records."""
