"""Who takes part in a step, and with what part of the job."""
