"""The report that ``--clean`` mails: who ran into which limit since the last one."""
