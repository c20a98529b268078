"""What control decides, as pure functions of what it has observed."""
