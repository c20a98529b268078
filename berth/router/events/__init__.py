"""What /events sends (docs/events.md): computed once a second by a worker that has listeners, for all of them.

hub           the listeners, and the events
request_feed  the event `requests`
log_tail      the event `log`
host_usage    what the event `traffic` says of the host
"""
