"""What is written down about clients and operators.

key_watch      the files of the API keys, read again when they change
key_commands   `berth key`
usage_writer   what clients used, once a minute
"""
