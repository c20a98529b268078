"""The process that stays in the foreground while supervisord runs as its child: signals, and one log stream."""
