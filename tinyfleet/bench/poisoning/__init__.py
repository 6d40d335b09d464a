"""What hostile devices cost: attacks, the devices that make them, and every attack against every aggregate."""
