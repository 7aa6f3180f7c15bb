"""Reads mail logs: which mails a Postfix took or refused in the past, and what this daemon decided about them."""
