"""Connections of policy clients: bytes to requests, actions to bytes, in order; fair shares, time limits, the end."""
