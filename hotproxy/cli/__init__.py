"""The commands. One module per verb group, imported only when its verb is called.

main         the group, lazy loading, exit codes
place        where an instance keeps its files, and how the other verbs find it
line         one question to the supervisor, one answer
run          `run`, `proxy`: become a supervisor
lifecycle    `reload`, `stop`, `drain`, `reopen-logs`
status       `status`, `listeners`
stats        `stats`
check        `check`
respond      `respond`
version      `version`
"""
