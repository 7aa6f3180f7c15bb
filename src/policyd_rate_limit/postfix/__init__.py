"""What is known of Postfix: its lists of restrictions, when it asks a policy service, what main.cf says."""
