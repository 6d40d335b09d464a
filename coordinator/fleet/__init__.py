"""Who is in the fleet: devices, their keys, their presence."""
