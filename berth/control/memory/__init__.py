"""GPU memory while Berth serves: what engines were seen to take, and the proof that it is free before one starts."""
