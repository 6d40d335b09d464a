"""What a board is: shipped profiles, detection, measurement, limits. Imports nothing of ours."""

if (
    __name__ != "tinyfleet.device_profiles"
):  # found by a checkout's root on the path: every module would be there twice
    raise ImportError(f"{__name__} is a part of tinyfleet; import it as tinyfleet.device_profiles")
