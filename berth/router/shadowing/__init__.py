"""Requests that are sent to another replica too, to compare the answers (berth.ipc.shadow). Clients notice nothing: a
shadow begins when the client's response is over.

shadows      of one worker: which requests, how many at a time, and their counts
asking       the request to the other replica              answers      what an answer says
comparison   of two answers                            eligibility  which requests and answers can be compared
"""
