"""The JSON API below ``/api/v1/``: what programs see and change, by bearer tokens.

``operations`` is the one table of which the routes are made, and the OpenAPI document that describes them.
"""
