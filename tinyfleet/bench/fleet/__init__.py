"""Load on a real broker and a real coordinator: virtual devices by the thousand, hostile ones, and floods."""
