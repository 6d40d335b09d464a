"""What a board is: shipped profiles, detection, measurement, limits. Imports nothing of ours."""
