"""What is written down about clients and operators.

key_watch      the files of the API keys, read again when they change
key_commands   `berth key`
audit_log      what was changed, by whom
usage_writer   what clients used, once a minute
"""
