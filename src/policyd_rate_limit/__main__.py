"""``python -m policyd_rate_limit``: the same as the command ``policyd-rate-limit``."""

from policyd_rate_limit.command import main

if __name__ == "__main__":
    main()
