"""The web page and the JSON API for whoever answers the telephone: ``policyd-rate-limit web``.

A process of its own beside the daemons, which know nothing of it. ``app`` puts together what browsers and programs
reach; ``site`` is what all of that shares. Who asks (``visitors``), what they may (``authority``) and what every
answer has to carry (``security``) is decided here once, for pages and API alike.
"""
